//! Which event an entry of the journal is about: MESSAGE_ID=, one table for the code, the manual and
//! whoever searches. An id never changes its meaning, and is never used again.

/// One kind of event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// By which code names it: `info!(name: message_id::LIVE.name, …)`.
    pub name: &'static str,
    /// `journalctl MESSAGE_ID=`
    pub id: &'static str,
    /// What happened.
    pub meaning: &'static str,
}

/// The keeper began, by itself or as the successor of another.
pub const STARTED: Message = Message {
    name: "started",
    id: "ee53eee65f304802a188ef05115eb745",
    meaning: "the keeper began, by itself or as the successor of another",
};
/// Everything has ended, nothing is left.
pub const STOPPED: Message = Message {
    name: "stopped",
    id: "20fb3a31353d4e11bb95d88602df51c1",
    meaning: "everything has ended, nothing is left",
};
/// Told to stop: requests are finished.
pub const STOPPING: Message = Message {
    name: "stopping",
    id: "780663dec1244467933fc90c6e91efec",
    meaning: "told to stop: requests are finished",
};
/// The unit is restarted: everything is left to the next keeper.
pub const RELEASED: Message = Message {
    name: "released",
    id: "2ee781f2b6fe4239b92959b98dc82cc5",
    meaning: "the unit is restarted: everything is left to the next keeper",
};
/// A front or a worker of the previous keeper was taken over.
pub const ADOPTED: Message = Message {
    name: "adopted",
    id: "cb8d27fae8ea4f7cb2921971ba17c5ee",
    meaning: "a front or a worker of the previous keeper was taken over",
};
/// The kept state could not be read or written.
pub const STATE_DAMAGED: Message = Message {
    name: "state-damaged",
    id: "3d575180a2304ce0a987ae6b0369d5b0",
    meaning: "the kept state could not be read or written",
};
/// A reload was asked for, by signal, by command or by a changed file.
pub const RELOAD_ASKED: Message = Message {
    name: "reload-asked",
    id: "6f1a97755e974810b99b401b9011eda0",
    meaning: "a reload was asked for, by signal, by command or by a changed file",
};
/// The configuration is invalid, nothing was started.
pub const CONFIG_INVALID: Message = Message {
    name: "config-invalid",
    id: "c7062dcefc7744539c4a6ee0b2ff5dda",
    meaning: "the configuration is invalid, nothing was started",
};
/// A generation begins.
pub const BEGUN: Message = Message {
    name: "begun",
    id: "14590a846a614ceab73cdbe99e8fe8ce",
    meaning: "a generation begins",
};
/// A generation is live: requests go to it.
pub const LIVE: Message = Message {
    name: "live",
    id: "73799e4730c543f5b6613d571210de6c",
    meaning: "a generation is live: requests go to it",
};
/// A generation did not become live, the old one serves on.
pub const START_FAILED: Message = Message {
    name: "start-failed",
    id: "0c6057222cae4d838f5c5232d4203530",
    meaning: "a generation did not become live, the old one serves on",
};
/// A generation was replaced and finishes its requests.
pub const DRAINING: Message = Message {
    name: "draining",
    id: "074360e8afdf4debbf3f2db36d41ccc4",
    meaning: "a generation was replaced and finishes its requests",
};
/// A generation has finished its requests.
pub const DRAINED: Message = Message {
    name: "drained",
    id: "302023aafff6470a80688adb25e700c8",
    meaning: "a generation has finished its requests",
};
/// Requests of a generation ran past the drain limit and were ended.
pub const CUT: Message = Message {
    name: "cut",
    id: "0cb2b908877a41d6a06dc6bfc966ec91",
    meaning: "requests of a generation ran past the drain limit and were ended",
};
/// Every process of a generation has ended.
pub const GONE: Message = Message {
    name: "gone",
    id: "dad871717f57461ea1c13ea93710bd4b",
    meaning: "every process of a generation has ended",
};
/// A worker ended though it was to serve.
pub const WORKER_DIED: Message = Message {
    name: "worker-died",
    id: "b9201c6c654546539c78c929e55cd5fa",
    meaning: "a worker ended though it was to serve",
};
/// A worker was started in the place of one that died.
pub const WORKER_RESPAWNED: Message = Message {
    name: "worker-respawned",
    id: "fdae3a6f6531490cac6c435370c1676f",
    meaning: "a worker was started in the place of one that died",
};
/// A worker did not answer in time and is replaced.
pub const WORKER_HUNG: Message = Message {
    name: "worker-hung",
    id: "fc33127eb9d54fd8a82aa04e469244d3",
    meaning: "a worker did not answer in time and is replaced",
};
/// The restart budget is spent: tries grow rare, requests without a worker get 503.
pub const DEGRADED: Message = Message {
    name: "degraded",
    id: "24db231bfef049efa03ab643450d11a5",
    meaning: "the restart budget is spent: tries grow rare, requests without a worker get 503",
};
/// No longer degraded.
pub const HEALED: Message = Message {
    name: "healed",
    id: "454171977e1e46dfa6ccd20557731eda",
    meaning: "no longer degraded",
};
/// A front was started.
pub const FRONT_STARTED: Message = Message {
    name: "front-started",
    id: "4ff401bda5a94c4e86684367a5190556",
    meaning: "a front was started",
};
/// A front ended though it was to serve; the app goes on.
pub const FRONT_DIED: Message = Message {
    name: "front-died",
    id: "dcf9343ddb1f4306a40ab21cb8cb65f2",
    meaning: "a front ended though it was to serve; the app goes on",
};
/// A front does not answer and is replaced; the app goes on.
pub const FRONT_HUNG: Message = Message {
    name: "front-hung",
    id: "ed478b0309e240b1b3f133d62de0b094",
    meaning: "a front does not answer and is replaced; the app goes on",
};
/// The log level was changed while everything runs.
pub const LEVEL_CHANGED: Message = Message {
    name: "level-changed",
    id: "37a4a3d6af1d4105862297a6ea171c7f",
    meaning: "the log level was changed while everything runs",
};
/// Entries of the access log were dropped, since nobody took them.
pub const ACCESS_DROPPED: Message = Message {
    name: "access-dropped",
    id: "6f65c7943a2642f18bb18dc8f23c17c5",
    meaning: "entries of the access log were dropped, since nobody took them",
};
/// A request has ended: an entry of the access log.
pub const REQUEST: Message = Message {
    name: "request",
    id: "f33c25fed8144bff810565699f823c81",
    meaning: "a request has ended: an entry of the access log",
};

/// Load balancers are told no, or no longer, by command.
pub const ROTATED: Message = Message {
    name: "rotated",
    id: "72387a45b62941c8b0db22646f2bdafc",
    meaning: "the service was drained or undrained: what /readyz says changed by command",
};

/// All new requests wait, by command.
pub const HELD: Message = Message {
    name: "held",
    id: "c2e58a04339c43759436e00c60a046e4",
    meaning: "new requests wait by command, for a time at most",
};
/// What was held by command goes on.
pub const RESUMED: Message = Message {
    name: "resumed",
    id: "7eba1ac9740945c49b90a065786cb53d",
    meaning: "requests that waited by command go on: by command, or since the time was over",
};

/// All of them, in the order of the manual.
pub const ALL: [Message; 29] = [
    STARTED,
    STOPPED,
    STOPPING,
    RELEASED,
    ADOPTED,
    STATE_DAMAGED,
    RELOAD_ASKED,
    CONFIG_INVALID,
    BEGUN,
    LIVE,
    START_FAILED,
    DRAINING,
    DRAINED,
    CUT,
    GONE,
    WORKER_DIED,
    WORKER_RESPAWNED,
    WORKER_HUNG,
    DEGRADED,
    HEALED,
    FRONT_STARTED,
    FRONT_DIED,
    FRONT_HUNG,
    LEVEL_CHANGED,
    ACCESS_DROPPED,
    REQUEST,
    ROTATED,
    HELD,
    RESUMED,
];

/// The kind of event that has this name.
pub fn named(name: &str) -> Option<Message> {
    ALL.into_iter().find(|message| message.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn ids_are_128_bits_in_hex_and_differ() {
        for message in ALL {
            let is_hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
            assert!(
                message.id.len() == 32 && message.id.chars().all(is_hex),
                "{message:?}"
            );
            assert_eq!(named(message.name), Some(message));
        }
        let ids: BTreeSet<_> = ALL.iter().map(|message| message.id).collect();
        assert_eq!(ids.len(), ALL.len());
    }
}
