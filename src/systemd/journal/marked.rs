//! Our log in the journal, with the MESSAGE_ID= of the kind of event that an entry is about.
//!
//! tracing-journald puts a prefix before every field of an event, and MESSAGE_ID= has none. What it
//! adds to all entries has none either: so there is one layer for each kind of event, made when the
//! first of them comes. An event says its kind by its name, which is in no entry.

use crate::systemd::message_id::{self, Message};
use std::io;
use std::sync::OnceLock;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

/// Our SYSLOG_IDENTIFIER: `journalctl -t gapless`.
const IDENTIFIER: &str = "gapless";

/// Before every field of ours: `GAPLESS_GENERATION=g7`.
const FIELD_PREFIX: &str = "GAPLESS";

/// See the module.
pub(super) struct Marked {
    /// Of the app.
    name: String,
    plain: tracing_journald::Layer,
    /// In the order of [`message_id::ALL`]; none where the process had no fd for it.
    kinds: [OnceLock<Option<tracing_journald::Layer>>; message_id::ALL.len()],
}

impl Marked {
    /// # Errors
    /// When the journal does not listen.
    pub(super) fn new(name: &str) -> io::Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            plain: layer(name, None)?,
            kinds: [const { OnceLock::new() }; message_id::ALL.len()],
        })
    }

    fn layer_for(&self, event: &Event<'_>) -> &tracing_journald::Layer {
        let name = event.metadata().name();
        let kind = message_id::ALL
            .into_iter()
            .zip(&self.kinds)
            .find(|(message, _)| message.name == name);
        kind.and_then(|(message, cell)| {
            cell.get_or_init(|| layer(&self.name, Some(message)).ok())
                .as_ref()
        })
        .unwrap_or(&self.plain)
    }
}

fn layer(name: &str, message: Option<Message>) -> io::Result<tracing_journald::Layer> {
    let id = message.map(|message| ("MESSAGE_ID", message.id));
    Ok(tracing_journald::layer()?
        .with_syslog_identifier(IDENTIFIER.to_owned())
        .with_field_prefix(Some(FIELD_PREFIX.to_owned()))
        .with_custom_fields([("GAPLESS_NAME", name)])
        .with_custom_fields(id))
}

impl<S> Layer<S> for Marked
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        self.plain.on_new_span(attributes, id, context);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        self.plain.on_record(id, values, context);
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        self.layer_for(event).on_event(event, context);
    }
}
