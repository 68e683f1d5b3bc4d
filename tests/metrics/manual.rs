//! The manual, the metrics and the tests name the same.

use crate::world::metrics::sample;
use crate::world::service::Service;
use crate::world::{repository, version};
use crate::{QUICK, send};
use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpStream;
use std::path::Path;

/// Type and labels by name, with the suffix of the type.
type Table = BTreeMap<String, (String, BTreeSet<String>)>;

/// What is there, every line of it understood.
pub fn printed(text: &str) -> Table {
    let body = text.strip_suffix("# EOF\n").unwrap();
    let mut table = Table::new();
    let mut current = (String::new(), String::new());
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            let suffix = match kind {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            current = (name.to_owned(), format!("{name}{suffix}"));
            let entry = (kind.to_owned(), BTreeSet::new());
            assert!(table.insert(current.1.clone(), entry).is_none(), "{line}");
        } else if !line.starts_with("# HELP ") {
            let (name, labels, value) = sample(line);
            assert!(name.starts_with(&current.0) && value >= 0.0, "{line}");
            let keys = labels.into_iter().map(|(key, _)| key.to_owned());
            let known = &mut table.get_mut(&current.1).unwrap().1;
            known.extend(keys.filter(|key| key != "le"));
        }
    }
    table
}

/// One metric, as the manual has it.
struct Entry {
    name: String,
    kind: String,
    labels: BTreeSet<String>,
    /// Those of its label, where the manual lists them.
    values: Vec<String>,
}

fn documented() -> Vec<Entry> {
    let manual = std::fs::read_to_string(repository("packaging/man/gapless.1")).unwrap();
    let (_, section) = manual.split_once(".Sh METRICS\n").unwrap();
    let section = section.split(".El\n").next().unwrap();
    section.split(".It Li ").skip(1).map(entry).collect()
}

fn entry(text: &str) -> Entry {
    let (head, body) = text.split_once('\n').unwrap();
    let (name, rest) = head.split_once(" No ").unwrap();
    let mut words = rest.split(' ').map(str::to_owned);
    let body = body.replace('\n', " ");
    let list = body.split_once(": ").map_or("", |(_, list)| list.trim());
    let values = list.trim_end_matches('.').split(", ");
    // Behind a value may stand in brackets what it means.
    let values = values.filter_map(|value| value.split(' ').next());
    Entry {
        name: name.to_owned(),
        kind: words.next().unwrap(),
        labels: words.collect(),
        values: values
            .filter(|value| !value.is_empty())
            .map(str::to_owned)
            .collect(),
    }
}

#[test]
fn the_manual_names_every_metric_with_its_type_and_labels() {
    let limit = "[http]\nconnections_per_address_max = 3";
    let service = Service::probe(&version("v1"), QUICK, limit);
    let crowd: Vec<_> = (0..4)
        .map(|_| TcpStream::connect(service.address()).unwrap())
        .collect();
    service.until(
        "connections_refused_total",
        &[("cause", "address_full")],
        1.0,
    );
    drop(crowd);
    service.until("connections", &[], 0.0);
    // A request that kills its worker is a loss, and so has a cause; one without Host is refused.
    assert_eq!(service.get("/crash").status, 502);
    send(&service, "GET / HTTP/1.1\r\n\r\n");
    service.until("requests_lost_total", &[("cause", "app_died")], 1.0);
    let text = service.until("generation_workers_ready", &[("generation", "1")], 1.0);
    let entries = documented().into_iter();
    let entries = entries.map(|entry| (entry.name, (entry.kind, entry.labels)));
    assert_eq!(printed(&text.0), entries.collect::<Table>(), "\n{}", text.0);
}

/// All tests, without any white space.
fn sources(directory: &Path, all: &mut String) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, all);
        } else if path.extension().is_some_and(|it| it == "rs") {
            let text = std::fs::read_to_string(path).unwrap();
            all.extend(text.chars().filter(|c| !c.is_whitespace()));
        }
    }
}

/// The labels of every claim about this series, as they are written. That it is 0 is no claim: so
/// is what nobody counts.
fn claims<'a>(sources: &'a str, name: &str) -> Vec<&'a str> {
    let calls = [".expect(", ".expect_within(", ".until("];
    let calls = calls.map(|call| format!("{call}\"{name}\",&["));
    let claims = calls.iter().flat_map(|call| sources.split(call).skip(1));
    let claims = claims.filter_map(|rest| rest.split_once("],"));
    let claims = claims.filter(|(_, wanted)| !wanted.starts_with("0.0)"));
    claims.map(|(labels, _)| labels).collect()
}

/// The series that must be claimed, with what has to stand among its labels.
fn wanted(entry: &Entry) -> Vec<(String, String)> {
    let name = entry.name.strip_prefix("gapless_").unwrap();
    if entry.kind == "histogram" {
        return ["_count", "_sum"]
            .map(|suffix| (format!("{name}{suffix}"), String::new()))
            .into();
    }
    let label = entry.labels.first().map_or("", String::as_str);
    let values = entry.values.iter().map(|value| (label, value.as_str()));
    let is_of_process = entry.labels.contains("process");
    let processes = ["keeper", "front", "worker"].map(|it| ("process", it));
    let processes = processes.into_iter().filter(|_| is_of_process);
    let pairs = values.chain(processes);
    let pairs = pairs.map(|(label, value)| format!("(\"{label}\",\"{value}\")"));
    let plain = std::iter::once(String::new());
    plain
        .chain(pairs)
        .map(|pair| (name.to_owned(), pair))
        .collect()
}

/// A new metric, or a new value of a label, comes with a test that sees its value.
#[test]
fn every_documented_metric_and_label_value_is_claimed_by_a_test() {
    let mut tests = String::new();
    sources(&repository("tests"), &mut tests);
    let entries = documented();
    let all = entries.iter().flat_map(wanted);
    let is_missing = |(series, pair): &(String, String)| {
        let claims = claims(&tests, series);
        !claims.iter().any(|labels| labels.contains(pair))
    };
    let missing: Vec<_> = all.filter(is_missing).collect();
    assert!(
        missing.is_empty(),
        "no test claims the value of {missing:#?}"
    );
}
