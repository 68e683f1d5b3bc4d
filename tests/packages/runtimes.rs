//! Runtimes that compile while they run, inside the sandbox of the shipped units: with the settings
//! that forbid it, a JVM would not even start.

use crate::build::{DEB, debs, run};
use crate::deb::{apt, with_debs};
use crate::world::container::{self, Container};
use crate::world::{beside_others, repository, skip};
use std::path::Path;
use std::process::Command;

/// The web server of the JVM itself; says what it compiles.
const JVM: &str = "web: java -Xlog:jit+compilation=debug -m jdk.httpserver \
                   -b 127.0.0.1 -p $PORT -d /srv/page\n";
const NODE: &str = "web: node --trace-opt node_port.js\n";

/// Its files alone: the rest of the package is about certificates and alternatives.
fn bring_a_jvm(container: &Container, base: &str) {
    let script = repository("tests/world/debs.sh");
    let debs = run(Command::new(script).args([base, "default-jre-headless"]));
    let debs = Path::new(debs.trim());
    let names = std::fs::read_dir(debs).unwrap();
    let mut names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let jre = names.find(|name| name.starts_with("openjdk-")).unwrap();
    container.write(
        "/srv/jre.deb",
        &std::fs::read(debs.join(jre)).unwrap(),
        0o644,
    );
    container.sh("dpkg-deb --extract /srv/jre.deb / && rm /srv/jre.deb && \
         ln -s $(ls -d /usr/lib/jvm/*/bin/java | head -n 1) /usr/bin/java");
}

/// An instance of the template, as gapless.service(8) has it.
fn add_instance(container: &Container, name: &str, port: &str) {
    let user = format!("u gapless-{name} - \"gapless app {name}\" /var/lib/gapless@{name}\n");
    let path = format!("/etc/sysusers.d/gapless-{name}.conf");
    container.push(&path, user.as_bytes(), 0o644);
    let listen = format!("[Socket]\nListenStream={port}\n");
    let drop_in = format!("/etc/systemd/system/gapless@{name}.socket.d/listen.conf");
    container.push(&drop_in, listen.as_bytes(), 0o644);
    container.sh("systemd-sysusers && systemctl daemon-reload");
    container.systemctl(&format!(
        "enable --now gapless@{name}.socket gapless@{name}.service"
    ));
}

/// Asks until the runtime has found it worth compiling; what it says of that.
fn compiles_under_load(container: &Container, port: &str, unit: &str, compiled: &str) {
    let ask = format!(
        "import http.client as h\n\
         c = h.HTTPConnection('127.0.0.1', {port}, timeout=30)\n\
         for _ in range(300):\n    \
         c.request('GET', '/'); r = c.getresponse(); r.read(); assert r.status == 200, r.status\n"
    );
    container.push("/srv/ask.py", ask.as_bytes(), 0o644);
    let look = format!("journalctl --sync; journalctl -o cat -u {unit} | grep -F '{compiled}'");
    for _enough in 0..50 {
        container.sh("python3 /srv/ask.py");
        if container.try_sh(&look).status.success() {
            return;
        }
    }
    panic!(
        "{unit} compiled nothing:\n{}",
        container.journal(&format!("-u {unit} -n 50"))
    );
}

#[test]
fn on_257_a_jvm_and_node_are_deployed_and_compile_inside_the_sandbox() {
    if let Some(missing) = container::missing().or_else(|| DEB.missing()) {
        return skip(&missing);
    }
    debs();
    let _held = beside_others();
    let container = with_debs("trixie");
    apt(&container, "install /srv/this.deb");
    bring_a_jvm(&container, "trixie");
    container.push("/srv/page/index.html", b"from the JVM\n", 0o644);
    container.push("/root/jvm/Procfile", JVM.as_bytes(), 0o644);
    container.push("/root/node/Procfile", NODE.as_bytes(), 0o644);
    container.install("tests/apps/node_port.js", "/root/node/node_port.js");
    // C2 is what takes most: tier 4. Node says when it has replaced a function.
    for (name, port, compiled) in [
        ("jvm", "8080", "       4       java."),
        ("node", "8081", "[completed optimizing"),
    ] {
        add_instance(&container, name, port);
        container.sh(&format!("gapless --app {name} deploy /root/{name}"));
        let unit = format!("gapless@{name}.service");
        compiles_under_load(&container, port, &unit, compiled);
        let rated = format!("systemd-analyze security --no-pager --threshold=20 {unit}");
        container.sh(&rated);
    }
    assert_eq!(container.get_from("8080", "/"), "from the JVM\n");
    the_example_with_a_procfile_is_deployed_as_it_stands(&container);
    a_purge_takes_the_releases_and_nothing_else_in_srv(&container);
}

/// Java 17 has no web server of its own and its packages no compiler, so there the JVM is what runs
/// before a release: it compiles all that it needs to say its version.
#[test]
fn on_252_a_jvm_compiles_before_a_release_and_node_compiles_inside_the_sandbox() {
    if let Some(missing) = container::missing().or_else(|| DEB.missing()) {
        return skip(&missing);
    }
    debs();
    let _held = beside_others();
    let container = with_debs("bookworm");
    apt(&container, "install /srv/this.deb");
    bring_a_jvm(&container, "bookworm");
    container.push("/root/node/Procfile", NODE.as_bytes(), 0o644);
    container.push("/root/node/gapless.toml", JVM_FIRST, 0o644);
    container.install("tests/apps/node_port.js", "/root/node/node_port.js");
    add_instance(&container, "node", "8081");
    container.sh("gapless deploy --name node /root/node");
    let unit = "gapless@node.service";
    let said = container.sh(&format!("journalctl -o cat -u {unit}"));
    assert!(
        said.contains("       4       java."),
        "C2 compiled nothing: {said}"
    );
    assert!(said.contains("Runtime Environment"), "{said}");
    compiles_under_load(&container, "8081", unit, "[completed optimizing");
    let rated = format!("systemd-analyze security --no-pager --threshold=20 {unit}");
    container.sh(&rated);
}

/// What C2 compiled: tier 4.
const JVM_FIRST: &[u8] = b"[app]\nrelease_command = [\"sh\", \"-c\", \
    \"java -Xcomp -Xlog:jit+compilation=debug -version 2>&1 | grep -E '4  .*java|Runtime'\"]\n";

fn a_purge_takes_the_releases_and_nothing_else_in_srv(container: &Container) {
    container.sh("echo mine >/srv/gapless/node/notes; echo mine >/var/lib/gapless/upload");
    apt(container, "remove gapless");
    let kept = container.sh("ls /srv/gapless /srv/gapless/jvm /var/lib/gapless");
    for name in [
        "gapless\n",
        "jvm\n",
        "node\n",
        "current\n",
        "releases\n",
        "upload\n",
    ] {
        assert!(kept.contains(name), "{kept}");
    }
    apt(container, "purge gapless");
    let left = container.sh("find /srv/gapless; ls -d /var/lib/gapless* 2>/dev/null || true");
    assert_eq!(
        left,
        "/srv/gapless\n/srv/gapless/node\n/srv/gapless/node/notes\n"
    );
}

fn the_example_with_a_procfile_is_deployed_as_it_stands(container: &Container) {
    for file in ["Procfile", "server.py"] {
        let path = format!("examples/procfile/{file}");
        container.install(&path, &format!("/root/hello/{file}"));
    }
    let said = container.sh("gapless deploy --release first /root/hello");
    assert!(said.contains("by web: in the Procfile"), "{said}");
    assert_eq!(container.get("/"), "hello from first\n");
}
