//! What a command did to this machine, one line for each deed, at once for people, at the end for
//! programs.

use super::output::{printable, say};
use serde::Serialize;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Deed {
    /// `wrote`, `made`, `ran`, `deleted`; `kept`: it was there already.
    did: &'static str,
    what: String,
    about: String,
}

/// In their order.
#[derive(Debug)]
pub(super) struct Deeds {
    is_quiet: bool,
    done: Vec<Deed>,
}

impl Deeds {
    pub fn new(is_quiet: bool) -> Self {
        Self {
            is_quiet,
            done: Vec::new(),
        }
    }

    pub fn tell(&mut self, did: &'static str, what: &str, about: &str) {
        if !self.is_quiet {
            let colon = if about.is_empty() { "" } else { ": " };
            say(&format!(
                "  {did:<8} {}",
                printable(&format!("{what}{colon}{about}"))
            ));
        }
        let (what, about) = (what.to_owned(), about.to_owned());
        self.done.push(Deed { did, what, about });
    }

    pub fn all(&self) -> &[Deed] {
        &self.done
    }

    /// Something is not as it was before.
    pub fn has_changed(&self) -> bool {
        self.done.iter().any(|deed| deed.did != "kept")
    }
}
