//! The command line: one file per command below; each talks to the control socket as any client
//! would, or becomes one of the processes.

use std::process::ExitCode;

/// Parses the arguments, runs the command, and says the truth in the exit code.
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
