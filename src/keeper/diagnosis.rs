//! Why an app did not become live, in one sentence, and what is likely to mend it.
//!
//! A guess from what can be seen: how it ended, what it wrote last, where it listens. It is told
//! beside the app's last lines, so that a wrong one misleads nobody for long.
//!
//! Of a worker that is late, the guess says what was met where it should listen, and where else its
//! processes do. That is looked at once, before SIGTERM, so a boot costs nothing for it. No decision
//! depends on the guess. Whether a program is made for this machine is read in its file: a shell takes what
//! execve(2) refuses for a script, and says something else.

mod fault;
mod files;
mod lines;

pub use fault::Fault;

use super::health::{Candidate, Observation};
use super::reaper::Ending;
use crate::config::{AppConfig, Listen};
use std::net::SocketAddr;
use std::time::Duration;

/// One that lived longer was not stopped by what it is made of.
const YOUNG: Duration = Duration::from_secs(5);

/// How a worker ended that should not have.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// By itself, or by whom.
    pub ending: Ending,
    /// The kernel killed it for want of memory.
    pub is_oom: bool,
    /// How long it lived.
    pub lived: Duration,
    /// What it wrote last.
    pub lines: &'a [String],
}

/// What is wrong with an app whose worker, or whose release command, ended.
pub fn of_end(end: End<'_>, app: &AppConfig, command: &[String]) -> Option<Fault> {
    if end.is_oom {
        return Some(Fault::Memory);
    }
    let made_wrong = (end.lived < YOUNG)
        .then(|| files::foreign(command, &app.directory))
        .flatten();
    let found = made_wrong.or_else(|| lines::read(end.lines, end.ending));
    found.or(match end.ending {
        Ending::Exited(0) => Some(Fault::Left),
        Ending::Exited(_) | Ending::Signaled { .. } | Ending::Unknown => None,
    })
}

/// What is known of a worker that is not ready in time.
#[derive(Clone, Copy, Debug)]
pub struct Lateness<'a> {
    /// It spoke over its NOTIFY_SOCKET, so that only READY=1 counts.
    pub speaks: bool,
    /// Where it may listen.
    pub candidates: &'a [Candidate],
    /// What was seen there last, in the same order.
    pub seen: &'a [Observation],
    /// Where else its processes listen.
    pub elsewhere: &'a [SocketAddr],
    /// What it wrote last.
    pub lines: &'a [String],
}

/// What is wrong with an app that is not ready in time.
pub fn of_lateness(late: Lateness<'_>, listen: Listen) -> Fault {
    if late.speaks {
        return Fault::Unready;
    }
    let port = late
        .candidates
        .iter()
        .find_map(|candidate| match candidate {
            Candidate::Port(port) => Some(*port),
            Candidate::Unix(_) | Candidate::Fd(_) => None,
        });
    // Our own socket takes every connection: that nobody answers there says nothing of who listens
    // elsewhere.
    let at_its_place = late
        .candidates
        .iter()
        .zip(late.seen)
        .filter(|(candidate, seen)| {
            let is_silent = matches!(seen, Observation::NoAnswer { .. });
            let is_ours = matches!(candidate, Candidate::Fd(_));
            !(is_ours && is_silent && late.candidates.len() > 1)
        })
        .find_map(|(_, seen)| answered(seen));
    if let Some(fault) = at_its_place {
        return fault;
    }
    let beside = late.elsewhere.iter().find(|at| Some(at.port()) == port);
    match (beside.or(late.elsewhere.first()), port) {
        (Some(at), Some(port)) if at.port() == port => Fault::WrongAddress { at: *at },
        (Some(at), port) => Fault::WrongPort {
            at: *at,
            port,
            is_fixed: matches!(listen, Listen::FixedPort(_)),
        },
        (None, port) => lines::read_of_living(late.lines).unwrap_or(Fault::Nowhere { port }),
    }
}

/// Somebody is there, but the answer is not good.
fn answered(seen: &Observation) -> Option<Fault> {
    match seen {
        Observation::Nothing { .. }
        | Observation::Refused { .. }
        | Observation::NotAccepted { .. } => None,
        Observation::Taken { .. } => Some(Fault::Taken(seen.to_string())),
        Observation::NoAnswer { path, .. } => Some(Fault::Mute {
            path: path.clone(),
            seen: seen.to_string(),
        }),
        Observation::NoHttp { .. } => Some(Fault::NoHttp(seen.to_string())),
        Observation::Status {
            host, path, status, ..
        } => Some(Fault::Status {
            host: host.clone(),
            path: path.clone(),
            status: *status,
            seen: seen.to_string(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: Candidate = Candidate::Port(41234);

    fn late(elsewhere: &[&str], seen: &[Observation]) -> String {
        let elsewhere: Vec<_> = elsewhere.iter().map(|at| at.parse().unwrap()).collect();
        let candidates = [PORT, Candidate::Unix("/x".into())];
        let late = Lateness {
            speaks: false,
            candidates: &candidates,
            seen,
            elsewhere: &elsewhere,
            lines: &[],
        };
        let fault = of_lateness(late, Listen::Auto);
        format!("{}; {}", fault.finding(), fault.cure())
    }

    #[test]
    fn a_wrong_port_is_told_from_a_wrong_address_and_from_none() {
        assert_eq!(
            late(&["0.0.0.0:3000"], &[]),
            "it listens on 0.0.0.0:3000 instead of $PORT, which is 41234; \
             let it use $PORT, or set listen = \"port:3000\" in [app]"
        );
        assert_eq!(
            late(&["127.0.0.1:9229", "10.0.0.7:41234"], &[]),
            "it listens on 10.0.0.7:41234, where 127.0.0.1 does not reach it; \
             let it listen on 127.0.0.1, or on all addresses (0.0.0.0)"
        );
        assert_eq!(
            late(&["10.0.0.7:3000"], &[]),
            "it listens on 10.0.0.7:3000 instead of $PORT, which is 41234; \
             let it use $PORT, on 127.0.0.1"
        );
        assert_eq!(
            late(&[], &[Observation::Nothing { port: 41234 }]),
            "it listens nowhere, though $PORT is 41234; \
             let it listen on 127.0.0.1 at $PORT; if it only needs longer, raise boot in [app]"
        );
    }

    #[test]
    fn an_answer_where_it_should_be_counts_more_than_another_port() {
        let seen = |status| Observation::Status {
            at: "127.0.0.1:41234".into(),
            host: "localhost".into(),
            path: "/up".into(),
            status,
        };
        assert_eq!(
            late(&["127.0.0.1:9229"], &[seen(404)]),
            "GET /up at 127.0.0.1:41234 answered 404; \
             let the app answer /up, or set path in [health] to what it has"
        );
        assert!(late(&[], &[seen(503)]).ends_with("; see in its output why it is not well"));
        assert!(late(&[], &[seen(401)]).ends_with("let /up be asked without a login"));
        for status in [400, 421] {
            assert!(late(&[], &[seen(status)]).ends_with(
                "; set host in [health] to a name that the app takes: \
                     the health check says Host: localhost"
            ));
        }
        assert!(late(&[], &[seen(403)]).ends_with(
            "; set host in [health] to a name that the app takes: the health check says \
             Host: localhost; or let /up be asked without a login"
        ));
        assert!(late(&[], &[seen(302)]).ends_with("or widen status in [health]"));
    }

    #[test]
    fn a_bad_answer_on_the_given_socket_is_an_answer() {
        let candidates = [PORT, Candidate::Fd("127.0.0.1:5000".parse().unwrap())];
        let at = || "127.0.0.1:5000".to_owned();
        let fault = |seen: Observation| {
            let seen = [Observation::Nothing { port: 41234 }, seen];
            let late = Lateness {
                speaks: false,
                candidates: &candidates,
                seen: &seen,
                elsewhere: &[],
                lines: &[],
            };
            of_lateness(late, Listen::Auto)
        };
        let bad = fault(Observation::Status {
            at: at(),
            host: "localhost".into(),
            path: "/up".into(),
            status: 500,
        });
        assert!(matches!(bad, Fault::Status { status: 500, .. }), "{bad:?}");
        let silent = fault(Observation::NoAnswer {
            at: at(),
            path: "/up".into(),
            timeout: Duration::from_secs(1),
        });
        assert_eq!(silent, Fault::Nowhere { port: Some(41234) });
    }

    #[test]
    fn who_lives_for_a_while_is_not_made_wrong() {
        let app = AppConfig::new(vec!["/proc/self/exe".into()], "/".into());
        let end = |code, lived| End {
            ending: Ending::Exited(code),
            is_oom: false,
            lived,
            lines: &[],
        };
        assert_eq!(of_end(end(3, YOUNG), &app, &app.command), None);
        assert_eq!(of_end(end(3, Duration::ZERO), &app, &app.command), None);
        let left = of_end(end(0, YOUNG), &app, &app.command);
        assert_eq!(left, Some(Fault::Left));
        let killed = End {
            is_oom: true,
            ..end(0, YOUNG)
        };
        assert_eq!(of_end(killed, &app, &app.command), Some(Fault::Memory));
    }
}
