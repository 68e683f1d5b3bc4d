//! The grammar of the commands that prove and explain.

use crate::cli::instance::InstanceName;
use clap::{Args, ValueEnum};
use std::time::Duration;

/// `gapless verify`
#[derive(Debug, Args)]
#[command(after_help = "\
Asks the app over keep-alive connections, without ever trying again, while these happen one after the
other, each after a quiet time: reload, upgrade (to the gapless that is installed), restart (by
systemctl), kill (SIGKILL to one worker). A quarter of the clients is silent meanwhile and asks at the
end of each; an eighth connects for each request. Only GET, unless --post says otherwise.

Lost is a request that is refused, reset, cut off or not answered within 30 s, that gets the answer to
another one, a status of another class than at rest, or a 5xx that does not occur at rest; and a page
that is always the same before and after, and was another one meanwhile. Whose answer it is, is known
where the app shows X-Request-Id or X-Gapless-Verify of the request, or the {id} of --path. A
connection that gapless closes counts, too.

A POST that a killed worker had begun must not be sent again by anybody: it is answered with 502, and
counted apart. A GET whose answer had begun to arrive is cut off by a kill, and is lost.

Exit code 0: nothing was lost or closed. 1: something was, or something could not be done.

Examples:
  sudo gapless verify
  sudo gapless verify shop --path /health --path '/search?q={id}' --for 5min
  gapless verify --only quiet --address 192.0.2.7:80 --host www.example.org")]
pub struct VerifyArgs {
    /// The instance; gapless, or the only one that runs in the foreground
    #[arg(value_name = "NAME")]
    pub name: Option<InstanceName>,
    /// How long it takes in all, longer if what happens takes longer
    #[arg(long = "for", value_name = "TIME", default_value = "30s", value_parser = super::values::time)]
    pub time: Duration,
    /// Clients, each with one connection
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub connections: u16,
    /// What to ask for, in turn when there are several; {id} becomes something else each time
    #[arg(long = "path", value_name = "PATH", default_value = "/", value_parser = path)]
    pub paths: Vec<String>,
    /// One of ten requests is a POST to this path, with a short text; the app must be fine with that
    #[arg(long, value_name = "PATH", value_parser = path)]
    pub post: Option<String>,
    /// Ask there instead of where the instance listens: 127.0.0.1:80 or unix:/run/app.sock
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub address: Option<String>,
    /// The Host: of every request, instead of the address
    #[arg(long, value_name = "HOST", value_parser = field)]
    pub host: Option<String>,
    /// Only these: quiet, reload, upgrade, restart, kill; quiet alone is only load
    #[arg(
        long,
        value_name = "WHAT",
        value_enum,
        value_delimiter = ',',
        hide_possible_values = true
    )]
    pub only: Vec<Happening>,
    /// What was counted, for programs, at the end
    #[arg(long)]
    pub json: bool,
}

/// `gapless explain`
#[derive(Debug, Args)]
#[command(after_help = "\
A name stands behind \"more: gapless explain\" where a deploy, a reload or a restart failed; it is also the
cause of a refused or lost request in metrics and the access log, what gapless verify counts, or an exit
code, by its name or number.

Examples:
  gapless explain
  gapless explain wrong-address
  gapless explain app_died
  gapless explain 6")]
pub struct ExplainArgs {
    /// The name; without it, all names are listed
    #[arg(value_name = "CODE")]
    pub code: Option<String>,
    /// For programs
    #[arg(long)]
    pub json: bool,
}

/// What happens to the app while it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Happening {
    /// Nothing.
    Quiet,
    /// New processes of the app.
    Reload,
    /// Another image of the keeper, and another front.
    Upgrade,
    /// Of the service.
    Restart,
    /// Of one worker.
    Kill,
}

impl Happening {
    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Quiet => "quiet",
            Self::Reload => "reload",
            Self::Upgrade => "upgrade",
            Self::Restart => "restart",
            Self::Kill => "kill",
        }
    }
}

fn path(text: &str) -> Result<String, &'static str> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic());
    if text.starts_with('/') && is_plain {
        Ok(text.to_owned())
    } else {
        Err("a path begins with / and has no spaces: /health")
    }
}

fn address(text: &str) -> Result<String, &'static str> {
    let text = text.strip_prefix("http://").unwrap_or(text);
    if text.contains("://") {
        return Err("only plain HTTP can be asked: 127.0.0.1:80, or unix:/run/app.sock");
    }
    let text = text.strip_suffix('/').unwrap_or(text);
    if text.starts_with('/') {
        return Ok(format!("unix:{text}"));
    }
    if text.contains(':') {
        Ok(text.to_owned())
    } else {
        Err("a port is missing: 127.0.0.1:80, or unix:/run/app.sock")
    }
}

fn field(text: &str) -> Result<String, &'static str> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(text.to_owned())
    } else {
        Err("a host has no spaces: www.example.org")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_with_a_port_or_a_socket() {
        assert_eq!(address("http://[::1]:80/").unwrap(), "[::1]:80");
        assert_eq!(address("/run/x.sock").unwrap(), "unix:/run/x.sock");
        assert_eq!(address("unix:/run/x.sock").unwrap(), "unix:/run/x.sock");
        assert!(address("https://x:443").is_err() && address("localhost").is_err());
    }

    #[test]
    fn nothing_that_is_asked_for_can_be_more_than_one_line() {
        assert!(path("/a b").is_err() && path("/a\r\n").is_err() && path("a").is_err());
        assert!(field("a\r\nb: c").is_err() && field("").is_err());
    }
}
