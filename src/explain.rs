//! What the names mean that gapless prints: of what is wrong, of refusals, of exit codes, of what
//! `gapless verify` counts. One catalogue, `explain/topics.txt`; tests beside the names hold it to them.
//!
//! What is wrong has a name (`diagnosis.rs`), which the keeper finds beside the sentence; names of refusals
//! are their causes, of exit codes `Exit::name`.

/// For `gapless explain`.
const TOPICS: &str = include_str!("explain/topics.txt");

/// What a name belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// A start, a reload, a worker.
    Start,
    /// A deploy, before anything was started.
    Deploy,
    /// An answer that gapless gave itself.
    Refusal,
    /// A request that was lost, where no answer could say so.
    Lost,
    /// What `gapless verify` counts.
    Verify,
    /// An exit code.
    Exit,
}

impl Field {
    /// All of them, in the order of the list.
    pub const ALL: [Self; 6] = [
        Self::Start,
        Self::Deploy,
        Self::Refusal,
        Self::Lost,
        Self::Verify,
        Self::Exit,
    ];

    /// Its word in the catalogue.
    pub fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Deploy => "deploy",
            Self::Refusal => "refusal",
            Self::Lost => "lost",
            Self::Verify => "verify",
            Self::Exit => "exit",
        }
    }

    /// Above its part of the list.
    pub fn heading(self) -> &'static str {
        match self {
            Self::Start => "why a start, a reload or a worker failed",
            Self::Deploy => "why nothing was deployed",
            Self::Refusal => "why gapless answered a request itself",
            Self::Lost => "why a request was lost that got no answer, or half of one",
            Self::Verify => "what gapless verify counts",
            Self::Exit => "exit codes",
        }
    }
}

/// One name, explained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// The name.
    pub code: &'static str,
    /// What it belongs to.
    pub field: Field,
    /// Other words for it: labels of metrics, the number of an exit code.
    pub also: Vec<&'static str>,
    /// In one line.
    pub title: &'static str,
    /// What it means, what gapless did, where to look, what to do.
    pub text: &'static str,
}

/// The whole catalogue, in its order.
pub fn topics() -> Vec<Topic> {
    let entries = TOPICS.split("== ").skip(1);
    entries.filter_map(topic).collect()
}

fn topic(entry: &'static str) -> Option<Topic> {
    let (head, rest) = entry.split_once('\n')?;
    let (title, text) = rest.split_once('\n')?;
    let mut words = head.split(' ');
    let (code, field) = (words.next()?, words.next()?);
    Some(Topic {
        code,
        field: Field::ALL.into_iter().find(|it| it.word() == field)?,
        also: words.collect(),
        title,
        text: text.trim_end(),
    })
}

/// The topic of a name; `-` and `_` are the same, and so are capitals.
pub fn find(name: &str) -> Option<Topic> {
    let all = topics();
    let wanted = plain(name);
    let named = all.iter().find(|it| plain(it.code) == wanted);
    let also = || all.iter().find(|it| it.also.contains(&wanted.as_str()));
    named.or_else(also).cloned()
}

/// The name that is most like this, if one is.
pub fn nearest(name: &str) -> Option<&'static str> {
    /// As alike as a word with a slip in it, or without its end.
    const ALIKE: f64 = 0.75;
    let wanted = plain(name);
    let alike = |topic: &Topic| strsim::jaro_winkler(&plain(topic.code), &wanted);
    let all = topics()
        .into_iter()
        .map(|topic| (alike(&topic), topic.code));
    let best = all.max_by(|one, other| one.0.total_cmp(&other.0));
    best.filter(|(alike, _)| *alike >= ALIKE)
        .map(|(_, code)| code)
}

fn plain(name: &str) -> String {
    name.trim().to_ascii_lowercase().replace('_', "-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::Diagnosis;
    use std::collections::BTreeSet;

    #[test]
    fn every_entry_of_the_catalogue_is_read_and_no_name_is_there_twice() {
        let all = topics();
        assert_eq!(all.len(), TOPICS.matches("== ").count());
        let names = |topic: &Topic| {
            let also = topic.also.iter().map(|it| plain(it));
            also.chain([plain(topic.code)]).collect::<Vec<_>>()
        };
        let all: Vec<_> = all.iter().flat_map(names).collect();
        let unique: BTreeSet<_> = all.iter().collect();
        assert_eq!(unique.len(), all.len(), "{all:?}");
    }

    #[test]
    fn every_text_is_short_and_says_what_it_means_what_was_done_where_to_look_and_what_to_do() {
        for topic in topics() {
            let code = topic.code;
            assert!(
                topic.title.ends_with('.') && topic.title.len() <= 100,
                "{code}"
            );
            let lines: Vec<_> = topic.text.lines().collect();
            assert!((4..=12).contains(&lines.len()), "{code}: {}", lines.len());
            let heads = lines.iter().filter(|line| !line.starts_with("  "));
            let heads: Vec<_> = heads.map(|line| line.split(' ').next().unwrap()).collect();
            assert_eq!(heads, ["Means:", "gapless:", "Look:", "Do:"], "{code}");
            for line in lines {
                assert!(line.len() <= 105, "{code}: {line}");
            }
        }
    }

    #[test]
    fn every_diagnosis_has_a_text() {
        for diagnosis in Diagnosis::ALL {
            assert_eq!(find(diagnosis.code()).unwrap().code, diagnosis.code());
        }
    }

    /// And nothing is explained that nothing is called.
    #[test]
    fn every_topic_of_a_start_and_a_deploy_is_a_diagnosis() {
        for topic in topics() {
            if matches!(topic.field, Field::Start | Field::Deploy) {
                let codes = Diagnosis::ALL.map(Diagnosis::code);
                assert!(codes.contains(&topic.code), "{}", topic.code);
            }
        }
    }

    #[test]
    fn a_name_is_found_however_it_is_written_and_by_its_other_words() {
        assert_eq!(find("App-Died").unwrap().code, "app_died");
        assert_eq!(find("wrong_path").unwrap().code, "wrong-path");
        assert_eq!(find("oom").unwrap().code, "out-of-memory");
        assert_eq!(find("6").unwrap().code, "unhealthy");
        assert_eq!(find("what"), None);
    }

    #[test]
    fn a_slip_is_understood_and_nonsense_is_not() {
        assert_eq!(nearest("wrongpath"), Some("wrong-path"));
        assert_eq!(nearest("out-of-mem"), Some("out-of-memory"));
        assert_eq!(nearest("zzz"), None);
    }
}
