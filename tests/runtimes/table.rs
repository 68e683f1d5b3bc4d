//! Which examples there are. A new one is a directory in examples/, a line here, and its runtime in
//! `packages`.

use crate::consoles;
use crate::instance::Instance;
use crate::starter;
use std::path::Path;

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
