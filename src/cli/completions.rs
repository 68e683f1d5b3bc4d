//! `gapless completions SHELL`: what the packages install for shells, from the grammar itself.

use super::output::say;
use super::{CompletionsArgs, Exit, command};
use clap_complete::Shell;

pub(super) fn run(args: &CompletionsArgs) -> Exit {
    say(script(args.shell).trim_end());
    Exit::Done
}

fn script(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command(), "gapless", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_learns_every_command_and_its_options() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = script(shell);
            for wanted in ["reload", "status", "json", "timeout"] {
                assert!(script.contains(wanted), "{shell}: no {wanted}");
            }
        }
    }
}
