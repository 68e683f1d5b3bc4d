//! Which examples there are. A new one is a directory in examples/, a line here, and its runtime in
//! `packages`.

use crate::consoles;
use crate::instance::Instance;
use crate::starter;
use crate::world::{process, repository};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const BUILT_WITHIN: Duration = Duration::from_mins(10);

/// An app of examples/.
pub struct Example {
    /// Of the instance.
    pub name: &'static str,
    /// In examples/.
    pub directory: &'static str,
    /// The file that has its version, `v1`, once.
    pub version_in: &'static str,
    /// Says the version of the runtime.
    pub runtime: &'static str,
    pub slow: Slow,
    /// What `gapless deploy` is told beside the directory, where there is no `make hot_deploy`.
    pub arguments: &'static str,
    /// What has to be built on this machine, in a copy of the directory.
    pub build: fn(&Path),
    /// What else it has to show, while its v2 serves.
    pub also: fn(&Instance<'_>),
}

/// How a request of it can be kept in flight.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Slow {
    /// `/slow?ms=` waits, and answers.
    Path,
    /// It has only files: a large one is read slowly.
    Download,
}

/// `make build` and `make hot_deploy` where it has a Makefile, else `gapless deploy` of the directory.
const fn example(name: &'static str, version_in: &'static str, runtime: &'static str) -> Example {
    Example {
        name,
        directory: name,
        version_in,
        runtime,
        slow: Slow::Path,
        arguments: "",
        build: |_| {},
        also: |_| {},
    }
}

pub const EXAMPLES: &[Example] = &[
    Example {
        slow: Slow::Download,
        ..example("static", "public/index.html", "python3 --version")
    },
    example("python", "app.py", "python3 -m gunicorn --version"),
    Example {
        directory: "python",
        arguments: "-- python3 -m uvicorn --fd 3 asgi:app",
        ..example("uvicorn", "asgi.py", "python3 -m uvicorn --version")
    },
    example("go", "main.go", "go version"),
    example("node", "server.js", "node --version"),
    example("ruby", "config.ru", "puma --version"),
    example("php", "index.php", "php --version"),
    Example {
        build: built_with_cargo,
        ..example("rust", "src/main.rs", "echo built by cargo, outside")
    },
    example("java", "Hello.java", "java --version"),
    Example {
        also: consoles::clojure_redefines_a_function,
        ..example(
            "clojure",
            "hello.clj",
            "clojure -e '(println :clojure (clojure-version))'",
        )
    },
    Example {
        also: starter::bun_runs_what_its_starter_file_names,
        ..example(
            "bun",
            "version1.ts",
            "echo bun $(/usr/local/bin/bun --version)",
        )
    },
    Example {
        also: consoles::elixir_reads_a_value,
        ..example("elixir", "lib/hello.ex", "elixir --version | tail -n 1")
    },
    Example {
        also: consoles::lisp_redefines_a_function,
        ..example("common-lisp", "hello.lisp", "sbcl --version")
    },
];

/// Runtimes that cannot be had, and why.
pub const KNOWN_MISSING: &[(&str, &str)] = &[];

/// In examples/, and shown elsewhere: tests/run.rs, tests/deposits.rs, tests/packages.
pub const NO_APPS: [&str; 3] = ["hello", "kept", "procfile"];

/// The program at the top of the copy, where a deploy of the directory finds it.
fn built_with_cargo(copy: &Path) {
    let manifest = copy.join("Cargo.toml");
    let text = std::fs::read_to_string(&manifest).unwrap();
    let here = format!("path = \"{}\"", repository("").display());
    assert!(text.contains("path = \"../..\""), "{text}");
    std::fs::write(&manifest, text.replace("path = \"../..\"", &here)).unwrap();
    let target = repository("target/runtimes");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--locked", "--manifest-path"]);
    cargo.arg(&manifest).arg("--target-dir").arg(&target);
    process::run(cargo, BUILT_WITHIN).expect_success();
    std::fs::copy(target.join("debug/hello"), copy.join("hello")).unwrap();
}
