//! What is accepted, and the errors as people see them.

use super::*;
use crate::config::{
    AppConfig, HealthConfig, HttpConfig, KillMode, LimitsConfig, Listen, LogConfig, ProxyProtocol,
    RestartConfig, StopSignal,
};
use proptest::prelude::*;
use std::time::Duration;

/// As if `text` stood in a file of the current directory.
fn of(text: &str) -> Result<Config, ConfigError> {
    let source = ConfigSource {
        file: Some("gapless.toml".into()),
        ..ConfigSource::default()
    };
    parse(text, &source)
}

fn problems_of(text: &str) -> String {
    of(text).unwrap_err().to_string()
}

fn summary_of(text: &str) -> String {
    of(text).unwrap_err().summary()
}

/// A file in a directory of its own, gone with the test.
struct Directory(PathBuf);

impl Directory {
    fn new(test: &str) -> Self {
        let name = format!("gapless-config-{}-{test}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path.canonicalize().unwrap())
    }

    fn load(&self, bytes: impl AsRef<[u8]>, overrides: Overrides) -> Result<Config, ConfigError> {
        let file = self.0.join("gapless.toml");
        std::fs::write(&file, bytes).unwrap();
        load(&ConfigSource {
            file: Some(file),
            overrides,
            ..ConfigSource::default()
        })
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

#[test]
fn a_command_is_enough_and_the_rest_are_defaults() {
    let here = std::env::current_dir().unwrap().canonicalize().unwrap();
    let expected = Config {
        app: AppConfig::new(vec!["server".into()], here),
        health: HealthConfig::default(),
        restart: RestartConfig::default(),
        http: HttpConfig::default(),
        limits: LimitsConfig::default(),
        log: LogConfig::default(),
    };
    assert_eq!(of("[app]\ncommand = [\"server\"]").unwrap(), expected);
}

#[test]
fn every_key_has_its_meaning() {
    let text = r#"
        [app]
        command = ["server", "--quiet"]
        env = { RAILS_ENV = "production" }
        listen = "port:3000"
        boot = "2min"
        kill_mode = "mixed"
        stop_signal = "QUIT"
        watchdog = "30s"
        [health]
        path = "/health?deep=1"
        host = "shop.example:8080"
        status = "200-299"
        passes = 3
        [restart]
        delay_max = "1min"
        [http]
        lanes = 2
        tunnels = "1h"
        upgrade_drain = "2h"
        head_bytes_max = "8KiB"
        body_bytes_max = "64MB"
        trusted_proxies = ["10.0.0.0/8", "::1"]
        retry_after = "1min"
        [limits]
        memory = "512MiB"
        tasks = 512
        cpu = "150%"
        [log]
        level = "info,gapless::front=debug"
    "#;
    let config = of(text).unwrap();
    assert_eq!(config.app.env["RAILS_ENV"], "production");
    assert_eq!(config.app.listen, Listen::FixedPort(3000));
    assert_eq!(config.app.boot, Duration::from_mins(2));
    assert_eq!(config.app.kill_mode, KillMode::Mixed);
    assert_eq!(config.app.stop_signal, StopSignal::SigQuit);
    assert_eq!(config.app.watchdog, Some(Duration::from_secs(30)));
    assert_eq!(config.health.path.as_deref(), Some("/health?deep=1"));
    assert_eq!(config.health.host, "shop.example:8080");
    assert_eq!(config.health.status, (200, 299));
    assert_eq!(config.health.passes.get(), 3);
    assert_eq!(config.restart.delay_max, Duration::from_mins(1));
    assert_eq!(config.http.lanes.map(NonZeroU32::get), Some(2));
    assert_eq!(config.http.tunnels, Duration::from_hours(1));
    assert_eq!(config.http.upgrade_drain, Some(Duration::from_hours(2)));
    assert_eq!(config.http.head_bytes_max, 8192);
    assert_eq!(config.http.body_bytes_max, 64_000_000);
    assert_eq!(config.http.trusted_proxies.len(), 2);
    assert_eq!(config.http.retry_after_seconds, 60);
    let limits = LimitsConfig {
        memory: Some(512 << 20),
        tasks: Some(512),
        cpu: Some(150),
    };
    assert_eq!(config.limits, limits);
    assert_eq!(config.log.level, "info,gapless::front=debug");
}

#[test]
fn a_stop_signal_and_a_kill_mode_that_are_none_are_named_with_the_choices() {
    let text = "[app]\ncommand = [\"x\"]\nstop_signal = \"SIGKILL\"\nkill_mode = \"process\"";
    let said = of(text).unwrap_err().to_string();
    for part in [
        "[app] stop_signal: \"SIGKILL\" is none of its choices",
        "SIGTERM, SIGINT, SIGQUIT",
        "[app] kill_mode: \"process\" is none of its choices",
        "\"control-group\"",
        "\"mixed\"",
    ] {
        assert!(said.contains(part), "{said}");
    }
}

#[test]
fn a_share_of_a_cpu_is_percent() {
    for wrong in ["150", "1.5", "0%", "-1%", "%", "100001%"] {
        let text = format!("[app]\ncommand = [\"x\"]\n[limits]\ncpu = \"{wrong}\"");
        let said = of(&text).unwrap_err().to_string();
        assert!(said.contains("is no share of a CPU"), "{said}");
        assert!(said.contains("150%"), "{said}");
    }
}

#[test]
fn a_status_can_be_one_number() {
    let config = of("[app]\ncommand = [\"x\"]\n[health]\nstatus = 204").unwrap();
    assert_eq!(config.health.status, (204, 204));
}

#[test]
fn an_unknown_key_is_shown_in_its_line_with_what_is_meant() {
    let expected = r#"  x unknown key "workres" in [app]
   ,-[gapless.toml:3:1]
 3 | workres = 2
   : ^^^|^^^
   :    `-- did you mean "workers"?
   `----
  help: [app] takes command, directory, env, workers, listen, boot, settle, drain, stop,
        kill_mode, stop_signal, watchdog, shared, release_command, console, keep, landlock"#;
    assert_eq!(
        problems_of("[app]\ncommand = [\"x\"]\nworkres = 2\n"),
        expected
    );
}

#[test]
fn all_problems_are_shown_at_once_in_the_order_of_the_file() {
    let text = "[app]\ncommand = [\"x\"]\ndrain = 15\n\n[htp]\n\n[http]\nhold = \"5m\"\n";
    let expected = r#"  x [app] drain = 15 has no unit
   ,-[gapless.toml:3:9]
 3 | drain = 15
   :         ^|
   :          `-- did you mean "15s"?
   `----
  help: write a duration: a number and ms, s, min or h, in quotes: drain = "15s"

  x unknown table or key "htp"
   ,-[gapless.toml:5:2]
 5 | [htp]
   :  ^|^
   :   `-- did you mean [http]?
   `----
  help: the tables are [app], [health], [restart], [http], [limits], [log]

  x [http] hold: "5m" has the unknown unit "m"
   ,-[gapless.toml:8:8]
 8 | hold = "5m"
   :        ^^|^
   :          `-- did you mean "5min"?
   `----
  help: write a duration: a number and ms, s, min or h, in quotes: hold = "15s""#;
    assert_eq!(problems_of(text), expected);
}

#[test]
fn what_is_there_twice_is_named_with_its_first_place() {
    for text in [
        "[app]\ncommand = [\"x\"]\n[http]\n[app]\nworkers = 2\n",
        "[app]\ncommand = [\"x\"]\nworkers = 2\n\ncommand = [\"y\"]\n",
    ] {
        let problems = problems_of(text);
        let line = if text.contains("http") { 1 } else { 2 };
        let told = format!("put it together, it is in line {line} already");
        assert!(problems.contains(&told), "{problems}");
    }
}

#[test]
fn a_syntax_error_is_shown_the_same_way() {
    let expected = r#"  x not TOML: missing comma between array elements, expected `,`
   ,-[gapless.toml:3:1]
 3 | workers = 2
   : ^
   `----
  help: text is put in "quotes", lists in [brackets]; see https://toml.io"#;
    assert_eq!(
        problems_of("[app]\ncommand = [\"x\"\nworkers = 2\n"),
        expected
    );
}

#[test]
fn the_summary_is_one_line_with_the_rest_counted() {
    let text = "[app]\ncommand = [\"x\"]\nworkres = 2\ndrain = 1\nstop = 1\n";
    let expected = "gapless.toml:3: unknown key \"workres\" in [app]; did you mean \"workers\"? \
                    (and 2 more)";
    assert_eq!(summary_of(text), expected);
    assert!(!summary_of("").contains('\n'));
}

#[test]
fn a_key_in_the_wrong_table_is_sent_home() {
    let summary = summary_of("[app]\ncommand = [\"x\"]\nhold = \"1s\"");
    assert!(summary.contains("hold belongs under [http]"), "{summary}");
    let summary = summary_of("command = [\"x\"]");
    assert!(summary.contains("command belongs under [app]"), "{summary}");
    assert!(!summary.contains("more"), "{summary}");
}

#[test]
fn a_command_written_as_text_is_proposed_as_a_list() {
    let summary = summary_of("[app]\ncommand = \"bun server.ts\"");
    let proposal = "did you mean command = [\"bun\", \"server.ts\"]?";
    assert!(summary.contains(proposal), "{summary}");
}

#[test]
fn values_out_of_range_are_refused_with_the_range() {
    for (line, range) in [
        ("[app]\nworkers = 0", "from 1 to 256"),
        ("[app]\ndrain = \"2h\"", "from 0s to 1h"),
        ("[http]\nhead_bytes_max = \"4KiB\"", "from 8KiB to 1MiB"),
        ("[http]\nlanes = 0", "from 1 to 256"),
    ] {
        let shown = problems_of(line);
        assert!(
            shown.contains("is out of range") && shown.contains(range),
            "{shown}"
        );
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (text, message) in [
        ("[app]\ncommand = []", "the command is empty"),
        (
            "[app]\ncommand = [\"\"]",
            "the program of the command is empty",
        ),
        ("[app]\ncommand = [\"a\\u0000\"]", "NUL"),
        ("[app]\nlisten = \"3000\"", "did you mean \"port:3000\"?"),
        ("[app]\nlisten = \"port:0\"", "none of its choices"),
        (
            "[app]\nlisten = \"port:3000\"\nworkers = 2",
            "2 workers cannot share the port 3000",
        ),
        ("[app.env]\nPORT = \"3000\"", "PORT is set by gapless"),
        ("[app.env]\nA = 1", "A = \"1\""),
        ("[health]\npath = \"http://x/\"", "is not a path"),
        ("[health]\nhost = \"https://x/\"", "is not a host"),
        ("[health]\nhost = \"\"", "is not a host"),
        ("[health]\nhost = \"me@x\"", "is not a host"),
        ("[health]\nhost = \"a b\"", "is not a host"),
        ("[health]\nhost = \"a\\r\\nb\"", "is not a host"),
        (
            "[health]\nstatus = \"299-200\"",
            "no range of HTTP statuses",
        ),
        (
            "[health]\npath = \"/\"\npasses = 100\ninterval = \"1min\"",
            "cannot come within boot",
        ),
        (
            "[restart]\ndelay_min = \"1min\"",
            "delay_min = 1min is longer than delay_max = 30s",
        ),
        (
            "[http]\ntrusted_proxies = [\"proxy.lan\"]",
            "is no address or network",
        ),
        ("[http]\nretry_after = \"1500ms\"", "not in whole seconds"),
        ("[log]\nlevel = \"inof\"", "did you mean \"info\"?"),
        ("app = 3", "app is a number, not a table"),
        ("[[app]]", "app is a list, not a table"),
    ] {
        let shown = problems_of(text);
        assert!(shown.contains(message), "{text}\n{shown}");
    }
}

#[test]
fn without_file_and_command_it_says_what_to_write() {
    let expected = r#"  x there is no command: nothing says what to run
  help: write a file gapless.toml:
        [app]
        command = ["bin/server", "--quiet"]
        or: gapless run -- CMD ARG..."#;
    assert_eq!(
        load(&ConfigSource::default()).unwrap_err().to_string(),
        expected
    );
}

#[test]
fn a_missing_file_is_named() {
    let file = Some(PathBuf::from("/nonexistent/gapless.toml"));
    let error = load(&ConfigSource {
        file,
        ..ConfigSource::default()
    })
    .unwrap_err();
    let summary = error.summary();
    assert!(
        summary.starts_with("/nonexistent/gapless.toml: cannot read it: No such"),
        "{summary}"
    );
}

#[test]
fn bytes_that_are_not_utf8_are_shown_in_their_line() {
    let directory = Directory::new("utf8");
    let error = directory
        .load(b"[app]\n# caf\xe9\n", Overrides::default())
        .unwrap_err();
    assert_eq!(
        error.problems[0]
            .place
            .as_ref()
            .map(|place| (place.line, place.column)),
        Some((2, 6))
    );
}

#[test]
fn a_relative_directory_is_beside_the_file_and_programs_are_in_it() {
    let directory = Directory::new("relative");
    std::fs::create_dir_all(directory.0.join("shop/bin")).unwrap();
    std::os::unix::fs::symlink("/bin/sh", directory.0.join("shop/bin/server")).unwrap();
    let text = "[app]\ncommand = [\"bin/server\", \"-c\"]\ndirectory = \"shop\"";
    let config = directory.load(text, Overrides::default()).unwrap();
    assert_eq!(config.app.directory, directory.0.join("shop"));
    let program = directory.0.join("shop/bin/server").display().to_string();
    assert_eq!(config.app.command, [program, "-c".to_owned()]);
}

#[test]
fn a_directory_and_a_program_that_are_missing_are_named() {
    let directory = Directory::new("missing");
    let text = "[app]\ncommand = [\"/nonexistent/server\"]\ndirectory = \"shop\"";
    let shown = directory
        .load(text, Overrides::default())
        .unwrap_err()
        .to_string();
    assert!(
        shown.contains("/nonexistent/server does not exist"),
        "{shown}"
    );
    assert!(shown.contains("missing/shop does not exist"), "{shown}");
}

#[test]
fn a_directory_of_the_wrong_kind_does_not_also_blame_the_command() {
    let error = of("[app]\ncommand = [\"bin/server\"]\ndirectory = 5").unwrap_err();
    assert_eq!(error.problems.len(), 1, "{error}");
}

#[test]
fn a_program_without_the_right_to_run_is_refused() {
    let directory = Directory::new("executable");
    let text = "[app]\ncommand = [\"./gapless.toml\"]";
    let shown = directory
        .load(text, Overrides::default())
        .unwrap_err()
        .to_string();
    assert!(shown.contains("is not executable"), "{shown}");
}

#[test]
fn the_command_line_is_stronger_than_the_file() {
    let directory = Directory::new("overrides");
    let overrides = Overrides {
        command: Some(vec!["other".into()]),
        workers: NonZeroU32::new(4),
        directory: Some("/".into()),
    };
    let text = "[app]\ncommand = [\"/nonexistent/server\"]\nworkers = 2\ndirectory = \"nowhere\"";
    let config = directory.load(text, overrides).unwrap();
    assert_eq!(config.app.command, ["other"]);
    assert_eq!(config.app.workers.get(), 4);
    assert_eq!(config.app.directory, PathBuf::from("/"));
}

#[test]
fn a_drawing_for_terminals_says_the_same() {
    let error = of("[app]\nworkres = 2").unwrap_err();
    let drawn = error.render(crate::config::Look::Drawn);
    let stripped = anstream::adapter::strip_str(&drawn).to_string();
    assert!(stripped.contains("did you mean \"workers\"?"), "{stripped}");
    assert!(drawn.contains("\u{1b}["));
}

/// Text that gets past the first character of a parser more often than noise does.
fn toml_like() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        Just("[app]\n".to_owned()),
        Just("[http]\n".to_owned()),
        Just("command = ".to_owned()),
        Just("workres = ".to_owned()),
        Just("drain = ".to_owned()),
        Just("env.X = ".to_owned()),
        Just("[\"x\", 'é']\n".to_owned()),
        Just("\"15s\"\n".to_owned()),
        Just("\"\"\"\n\n\"\"\"\r\n".to_owned()),
        Just("-0x1_f\n".to_owned()),
        Just("\t{ a = ".to_owned()),
        "\\PC{0,6}\n?",
        any::<char>().prop_map(String::from),
    ];
    prop::collection::vec(word, 0..12).prop_map(|words| words.concat())
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_or_the_drawing_panic(text in prop_oneof![".*", toml_like()]) {
        if let Err(error) = of(&text) {
            prop_assert!(!error.problems.is_empty());
            prop_assert!(!error.summary().contains('\n'));
            drop((error.to_string(), error.render(crate::config::Look::Drawn)));
        }
    }

    #[test]
    fn written_durations_are_meant(seconds in 0_u64..=3600) {
        let text = format!("[app]\ncommand = [\"x\"]\ndrain = \"{seconds}s\"");
        prop_assert_eq!(of(&text).unwrap().app.drain, Duration::from_secs(seconds));
    }
}

#[test]
fn proxy_headers_need_somebody_to_believe() {
    let with = |rest: &str| format!("[app]\ncommand = [\"server\"]\n[http]\n{rest}");
    let config = of(&with(
        "proxy_protocol = \"require\"\ntrusted_proxies = [\"10.0.0.5\"]",
    ))
    .unwrap();
    assert_eq!(config.http.proxy_protocol, ProxyProtocol::Require);
    let nobody = problems_of(&with("proxy_protocol = \"require\""));
    assert!(nobody.contains("without trusted_proxies"), "{nobody}");
    assert!(nobody.contains("name the load balancers"), "{nobody}");
    let other = problems_of(&with("proxy_protocol = \"v2\""));
    assert!(other.contains("\"v2\" is none of its choices"), "{other}");
}

#[test]
fn odd_field_names_pass_only_where_it_says_so() {
    let with = |rest: &str| format!("[app]\ncommand = [\"server\"]\n[http]\n{rest}");
    for (written, meant) in [("", false), ("odd_field_names = true", true)] {
        assert_eq!(of(&with(written)).unwrap().http.odd_field_names, meant);
    }
    let other = problems_of(&with("odd_field_names = \"yes\""));
    assert!(other.contains("write odd_field_names = true"), "{other}");
}

#[test]
fn what_an_earlier_keeper_wrote_down_of_http_is_understood() {
    let mut kept = serde_json::to_value(HttpConfig::default()).unwrap();
    let kept = kept.as_object_mut().unwrap();
    for key in [
        "connect",
        "connections_per_address_max",
        "odd_field_names",
        "rate_min",
        "proxy_protocol",
        "tunnels",
        "upgrade_drain",
    ] {
        assert!(kept.remove(key).is_some(), "{key}");
    }
    let read: HttpConfig = serde_json::from_value(kept.clone().into()).unwrap();
    assert_eq!(read, HttpConfig::default());
}
