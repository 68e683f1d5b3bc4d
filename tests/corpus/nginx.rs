//! The same requests through nginx, with the same app: where does it pass what we refuse?

use super::app::StrictApp;
use super::cases::{RequestCase, read};
use super::requests::{Look, Outcome, outcome};
use super::world::{Port, soon};
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Each with a server of nginx and an app of its own, since what an app sees has no sender.
const WORKERS: usize = 8;

/// How long silence means that nginx waits for more.
const SILENCE: Duration = Duration::from_millis(400);

struct Nginx {
    child: Child,
    directory: PathBuf,
}

impl Drop for Nginx {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        drop(std::fs::remove_dir_all(&self.directory));
    }
}

impl Nginx {
    /// None when it is not installed. Two requests of this machine may not take the same port in
    /// between; if they do, it says so.
    async fn start(apps: &[StrictApp]) -> Option<(Self, Vec<SocketAddr>)> {
        let directory = std::env::temp_dir().join(format!("gapless-nginx-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let ports: Vec<_> = apps.iter().map(|_| Port::open().address).collect();
        let path = directory.join("nginx.conf");
        std::fs::write(&path, configuration(&directory, apps, &ports)).unwrap();
        let child = Command::new("nginx")
            .arg("-e")
            .arg(directory.join("error.log"))
            .arg("-c")
            .arg(&path)
            .stderr(Stdio::inherit())
            .spawn()
            .ok()?;
        let nginx = Self { child, directory };
        soon("nginx", async {
            while tokio::net::TcpStream::connect(ports[0]).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        Some((nginx, ports))
    }
}

/// As people write it, keeping connections to the app, with our limits.
fn configuration(directory: &Path, apps: &[StrictApp], ports: &[SocketAddr]) -> String {
    let own = directory.display();
    let mut text = format!(
        "daemon off; master_process off; pid {own}/pid; error_log {own}/error.log crit;
        events {{ worker_connections 512; }}
        http {{ access_log off; client_max_body_size 100000; lingering_close off;
        large_client_header_buffers 2 8k; client_header_timeout 5s; client_body_timeout 5s;
        client_body_temp_path {own}/b; proxy_temp_path {own}/p; fastcgi_temp_path {own}/f;
        uwsgi_temp_path {own}/u; scgi_temp_path {own}/s;\n"
    );
    for (number, (app, port)) in apps.iter().zip(ports).enumerate() {
        writeln!(
            text,
            "upstream app{number} {{ server {}; keepalive 16; }}
            server {{ listen {port}; server_name corpus; location / {{ proxy_pass http://app{number};
            proxy_http_version 1.1; proxy_set_header Connection ''; proxy_set_header Host $host;
            proxy_request_buffering off;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; }} }}",
            app.address
        )
        .unwrap();
    }
    text.push('}');
    text
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Difference {
    None,
    /// It passes on what we do not.
    Stricter,
    /// The other way round.
    Laxer,
    /// The same reaches the app, the client is told otherwise.
    Other,
}

/// `faults`: what their app was sent that ours must never see.
fn difference(case: &RequestCase, theirs: &Outcome, faults: &[String]) -> Difference {
    if !faults.is_empty() {
        return Difference::Stricter;
    }
    let (ours, theirs_seen) = (case.app.len(), theirs.app.len());
    let same = theirs.answers == case.answers && theirs.then == case.then;
    match theirs_seen.cmp(&ours) {
        std::cmp::Ordering::Greater => Difference::Stricter,
        std::cmp::Ordering::Less => Difference::Laxer,
        std::cmp::Ordering::Equal if same => Difference::None,
        std::cmp::Ordering::Equal => Difference::Other,
    }
}

fn row(case: &RequestCase, theirs: &Outcome, faults: &[String]) -> String {
    let seen: Vec<_> = theirs.app.iter().map(|seen| &*seen.line).collect();
    format!(
        "| {} | {:?} {:?} | {:?} {:?} {seen:?} {}|",
        case.name,
        case.answers,
        case.then,
        theirs.answers,
        theirs.then,
        if faults.is_empty() {
            ""
        } else {
            "and to the app what it should never see "
        }
    )
}

#[expect(clippy::print_stdout, reason = "the table is what it is for")]
#[tokio::test]
#[ignore = "compares with nginx, which need not be installed: make compare"]
async fn the_same_requests_through_nginx_show_where_we_are_stricter() {
    let cases: Vec<RequestCase> = read("requests");
    let mut apps = Vec::new();
    for _ in 0..WORKERS {
        apps.push(StrictApp::start().await);
    }
    let Some((_nginx, ports)) = Nginx::start(&apps).await else {
        println!("nginx is not installed: nothing to compare with");
        return;
    };
    let mut working = tokio::task::JoinSet::new();
    for (worker, (app, port)) in apps.into_iter().zip(ports).enumerate() {
        let cases = cases.clone();
        working.spawn(async move {
            let mut found = Vec::new();
            for number in (worker..cases.len()).step_by(WORKERS) {
                let case = &cases[number];
                let look = (SILENCE, Look::ForAnything);
                let theirs = outcome(case, number, port, &app, look).await;
                let faults = app.faults();
                let row = row(case, &theirs, &faults);
                found.push((number, difference(case, &theirs, &faults), row));
            }
            found
        });
    }
    let mut found = working.join_all().await.concat();
    found.sort_by_key(|(number, ..)| *number);
    assert_eq!(found.len(), cases.len());
    for (kind, title) in [
        (
            Difference::Stricter,
            "We are stricter: nginx passes on what we do not",
        ),
        (Difference::Laxer, "nginx is stricter"),
        (
            Difference::Other,
            "The app sees the same, the client something else",
        ),
    ] {
        let rows: Vec<_> = found
            .iter()
            .filter(|(_, found, _)| *found == kind)
            .collect();
        println!("\n### {title}: {} of {}\n", rows.len(), cases.len());
        println!("| request | gapless | nginx |\n|---|---|---|");
        for (_, _, row) in rows {
            println!("{row}");
        }
    }
    let stricter = found
        .iter()
        .filter(|(_, kind, _)| *kind == Difference::Stricter)
        .count();
    assert!(stricter > 0, "the comparison shows nothing; is it broken?");
}
