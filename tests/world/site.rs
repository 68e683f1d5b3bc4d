//! A service that releases are deployed to.

use super::process::{self, Finished};
use super::service::Service;
use super::tool;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

/// Runs a service that has nothing to run yet, and deploys to it.
pub struct Site {
    pub service: Service,
    /// Where load balancers ask.
    pub admin: String,
}

impl Site {
    pub fn bare() -> Self {
        let mut service = Service::new("gapless");
        service.listen_tcp("http");
        let admin = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = admin.local_addr().unwrap().to_string();
        service.give("admin", admin.into());
        service.start();
        service.wait_ready();
        Self {
            service,
            admin: address,
        }
    }

    /// A directory with an app of this version; `more` are lines of its `[app]`.
    pub fn app(&self, version: &str, more: &str) -> PathBuf {
        let probe = tool("probe-app").display().to_string();
        let text = format!(
            "[app]\ncommand = [\"{probe}\"]\nsettle = \"100ms\"\n{more}\n\
             [app.env]\nPROBE_VERSION = \"{version}\"\n"
        );
        let file = self
            .service
            .scratch
            .write(&format!("{version}/gapless.toml"), &text);
        file.parent().unwrap().to_owned()
    }

    pub fn cli(&self, arguments: &[&str]) -> Finished {
        process::run(self.service.command(arguments), Duration::from_mins(1))
    }

    pub fn deploy(&self, version: &str) -> Finished {
        let app = self.app(version, "");
        self.cli(&["deploy", app.to_str().unwrap(), "--release", version])
    }

    /// The same with a file in it, and everything that it says of its start.
    pub fn deploy_to_the_letter(
        &self,
        version: &str,
        more: &str,
        path: &str,
        text: &str,
    ) -> Finished {
        let app = self.app(version, more);
        let file = app.join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        self.cli(&["deploy", app.to_str().unwrap(), "--release", version])
    }

    /// A deploy that can be killed.
    pub fn begin(&self, arguments: &[&str]) -> Child {
        let mut command = self.service.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command.spawn().unwrap()
    }

    pub fn current(&self) -> Option<String> {
        self.named("current")
    }

    pub fn named(&self, link: &str) -> Option<String> {
        let target = fs::read_link(self.store().join(link)).ok()?;
        Some(target.file_name().unwrap().to_str().unwrap().to_owned())
    }

    pub fn store(&self) -> PathBuf {
        self.service.scratch.0.join("store/gapless")
    }

    /// Names in `releases/`, sorted.
    pub fn releases(&self) -> Vec<String> {
        names(&self.store().join("releases"))
    }

    /// Names in `incoming/`.
    pub fn left(&self) -> Vec<String> {
        names(&self.store().join("incoming"))
    }

    pub fn version(&self) -> String {
        let reply = self.service.get("/");
        reply.header("x-app-version").unwrap_or("none").to_owned()
    }
}

fn names(directory: &Path) -> Vec<String> {
    let listed = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = listed
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
