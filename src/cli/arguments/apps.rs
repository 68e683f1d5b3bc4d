//! The grammar of the commands for several apps on one machine.

use crate::cli::address::Address;
use crate::cli::instance::InstanceName;
use clap::Args;

/// `gapless add`
#[derive(Debug, Args)]
#[command(after_help = "\
Makes what an instance of its own needs: the user gapless-NAME, /etc/gapless/NAME.toml if there is
none, the addresses as a drop-in of gapless@NAME.socket; enables socket and service, and starts the
socket. Every file is named. Told again, it completes what is missing; other addresses are refused
then, with what to do. What fails is undone. The first request is answered with what to type next.

ADDRESS is a port (of all addresses), 127.0.0.1:8081, [::1]:8081, or the path of a unix socket; ports
below 1024 are fine. One that is taken is refused, and who has it is named.

Examples:
  sudo gapless add blog --listen 8081
  sudo gapless add blog --listen 127.0.0.1:8081 [::1]:8081
  sudo gapless add blog --listen /run/blog.sock && sudo gapless --app blog deploy ./blog")]
pub struct AddArgs {
    /// The new instance: up to 23 letters, digits, _ and -
    #[arg(value_name = "NAME")]
    pub name: Option<InstanceName>,
    /// Where it listens
    #[arg(long, value_name = "ADDRESS", required = true, num_args = 1..)]
    pub listen: Vec<Address>,
    /// What was done, for programs
    #[arg(long)]
    pub json: bool,
}

/// `gapless remove`
#[derive(Debug, Args)]
#[command(after_help = "\
Finishes the requests under way, stops and disables service and sockets, and deletes what gapless add
wrote. Configuration, releases, the app's data and its user stay, and are named: gapless add brings
the app back as it was. With --purge they are deleted as well, and there is no way back.

Exit code 8: a deploy is at work, and nothing was done.

Examples:
  sudo gapless remove blog
  sudo gapless remove blog --purge")]
pub struct RemoveArgs {
    /// The instance
    #[arg(value_name = "NAME")]
    pub name: Option<InstanceName>,
    /// Delete its releases, data, cache, configuration and user, too
    #[arg(long)]
    pub purge: bool,
    /// What was done and what is left, for programs
    #[arg(long)]
    pub json: bool,
}

/// `gapless list`
#[derive(Debug, Args)]
#[command(after_help = "\
Every instance on this machine: those that run, are enabled, or have a configuration, releases or data,
and what you run in the foreground. Who may not ask one is told so. Exit code 0, however they are.

Examples:
  gapless list
  gapless list --json | jq -r '.apps[] | select(.healthy == false).name'")]
pub struct ListArgs {
    /// Everything, for programs
    #[arg(long)]
    pub json: bool,
}
