//! `gapless completions SHELL`: what the packages install for shells, from the grammar itself.

use super::output::say;
use super::{CompletionsArgs, Exit, visible};
use clap_complete::Shell;

pub(super) fn run(args: &CompletionsArgs) -> Exit {
    say(script(args.shell).trim_end());
    Exit::Done
}

fn script(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut visible(), "gapless", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_learns_every_visible_command_and_its_options() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = script(shell);
            for offered in visible().get_subcommands() {
                let name = offered.get_name();
                assert!(script.contains(name), "{shell}: no {name}");
            }
            for hidden in ["handover", "sweep", "completions"] {
                assert!(!script.contains(hidden), "{shell}: {hidden}");
            }
            for option in ["json", "timeout", "workers"] {
                assert!(script.contains(option), "{shell}: no --{option}");
            }
        }
    }
}
