//! The corpus, with bytes changed at random: nothing that comes of it reaches the app in two
//! readings, or harms the next request.

use super::app::StrictApp;
use super::cases::{RequestCase, read};
use super::client::{End, Wire};
use super::requests::one_lane;
use super::world::{Front, PATIENCE, Port, live};
use gapless::link::Orphaned;

const ROUNDS: usize = 600;

/// Larger cases are about size, which a changed byte does not change.
const BYTES_MAX: usize = 2_000;

/// What breaks parsers.
const TOKENS: [&[u8]; 14] = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b",",
    b"0",
    b"\r\n\r\n",
    b"Content-Length: 1\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"\xff",
    b"GET /m HTTP/1.1\r\nHost: m\r\n\r\n",
];

/// SplitMix64: the same sequence everywhere.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((mixed ^ (mixed >> 31)) % u64::try_from(end.max(1)).unwrap()).unwrap()
    }

    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(3) {
            let at = self.below(bytes.len() + 1);
            let end = (at + 1 + self.below(8)).min(bytes.len());
            match self.below(5) {
                0 => drop(bytes.drain(at..end)),
                1 => {
                    let token = TOKENS[self.below(TOKENS.len())];
                    drop(bytes.splice(at..at, token.iter().copied()));
                }
                2 => {
                    let again = bytes[at..end].to_vec();
                    drop(bytes.splice(at..at, again));
                }
                3 => {
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte ^= 1 << self.below(8);
                    }
                }
                _ => bytes.rotate_left(at.min(1)),
            }
        }
    }
}

#[tokio::test]
async fn changed_bytes_reach_the_app_in_one_reading_or_not_at_all() {
    let mut cases: Vec<RequestCase> = read("requests");
    cases.retain(|case| case.send.0.concat().len() <= BYTES_MAX);
    let (port, app) = (Port::open(), StrictApp::start().await);
    let mut front = Front::start_with(&port, one_lane(), Orphaned::ServeOn).await;
    front.serve(1, live(1, &[app.address])).await;
    let (mut reached, mut dice) = (0, Dice(1));
    for round in 0..ROUNDS {
        let case = &cases[dice.below(cases.len())];
        let mut bytes = case.send.0.concat();
        dice.mutate(&mut bytes);
        let told = format!(
            "round {round}, of {:?}: {:?}",
            case.name,
            String::from_utf8_lossy(&bytes)
        );
        let mut wire = Wire::connect(port.address).await;
        let cut = dice.below(bytes.len() + 1);
        wire.send(&bytes[..cut]).await;
        wire.send(&bytes[cut..]).await;
        wire.shut().await;
        while wire.answer(false, PATIENCE).await.is_ok() {}
        assert_eq!(
            wire.answer(false, PATIENCE).await,
            Err(End::Closed),
            "{told}"
        );
        let mut fresh = Wire::connect(port.address).await;
        let own = fresh
            .gets_its_own(&format!("/fresh-{round}"), PATIENCE)
            .await;
        assert_eq!(own, Ok(()), "{told}");
        assert_eq!(app.faults(), [""; 0], "{told}");
        reached += app.seen().len() - 1;
    }
    // Else the dice are loaded.
    assert!((ROUNDS / 20..ROUNDS).contains(&reached), "{reached}");
    front
        .until("no lease", |report| report.leases.is_empty())
        .await;
    front.end().await;
}
