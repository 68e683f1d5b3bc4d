//! `gapless console` on a terminal: into images and nodes that serve meanwhile, and go on with what they
//! were told.

use crate::instance::Instance;
use crate::world::repository;

/// A function of the running image answers differently from then on, in the same process.
pub fn lisp_redefines_a_function(instance: &Instance<'_>) {
    let define = r#"(defun greeting () "redefined at the console")"#;
    let told = ["hello> ", define, "GREETING"];
    redefines(instance, &told);
}

/// By nREPL.
pub fn clojure_redefines_a_function(instance: &Instance<'_>) {
    let define = r#"(defn greeting [] "redefined at the console")"#;
    let told = [
        "user=> ",
        "(in-ns 'hello)",
        "hello=> ",
        define,
        "#'hello/greeting",
    ];
    redefines(instance, &told);
}

fn redefines(instance: &Instance<'_>, told: &[&str]) {
    let workers = || instance.container.worker_pids_of(instance.example.name);
    let (before, page) = (workers(), instance.page());
    console(instance, told);
    assert_ne!(page.trim(), "redefined at the console, v2");
    assert_eq!(instance.page().trim(), "redefined at the console, v2");
    assert_eq!(workers(), before);
}

/// What the running node counts.
pub fn elixir_reads_a_value(instance: &Instance<'_>) {
    let count = || {
        let ask = r#"IO.puts("there were #{Hello.Visits.count()}.")"#;
        let screen = console(instance, &["iex.*1> ", ask, r"there were \d+\."]);
        let told = screen
            .rsplit_once("there were ")
            .and_then(|(_, rest)| rest.split('.').next()?.parse::<u64>().ok());
        told.unwrap_or_else(|| panic!("no number on {screen}"))
    };
    let before = count();
    for _ in 0..3 {
        instance.page();
    }
    assert_eq!(count(), before + 3);
}

/// What was on the screen.
#[track_caller]
fn console(instance: &Instance<'_>, told: &[&str]) -> String {
    let (container, name) = (instance.container, instance.example.name);
    let typist = std::fs::read(repository("tests/runtimes/console.py")).unwrap();
    container.push("/srv/console.py", &typist, 0o644);
    let quoted = told
        .iter()
        .map(|word| format!("'{}'", word.replace('\'', r"'\''")));
    let words: Vec<_> = quoted.collect();
    container.sh(&format!(
        "python3 /srv/console.py {name} {}",
        words.join(" ")
    ))
}
