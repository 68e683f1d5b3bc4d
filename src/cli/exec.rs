//! `gapless exec …`: the chain loader, whose arguments are its own business.

use std::ffi::OsString;
use std::process::ExitCode;

/// Comes back only on failure, with what was wrong said.
pub(super) fn run(arguments: Vec<OsString>) -> ExitCode {
    crate::exec::main(arguments)
}
