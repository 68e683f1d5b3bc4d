// Which version runs. Edit as many files as you like; then this one.
import "./version1.ts";
