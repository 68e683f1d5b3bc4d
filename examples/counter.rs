//! An axum app with all that `gapless::app` has: it counts its visits, and goes on counting after a
//! reload, a crash, and a restart of gapless.
//!
//!     cargo build --example counter
//!     gapless run -- target/debug/examples/counter

#![allow(
    clippy::print_stdout,
    reason = "the journal has what a service writes to stdout"
)]

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use gapless::app::{App, AppError, Kept, Tower};
use std::sync::Arc;
use std::time::Duration;

type Visits = Arc<Kept<u64>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), AppError> {
    let app = App::new()?;
    let visits: Visits = Arc::new(app.keep("visits", || 0)?);
    let pid = std::process::id();
    let counted = Arc::clone(&visits);
    app.interval(every(), move || {
        println!("{pid}: {} visits so far", show(&counted));
        std::future::ready(())
    });
    let counted = Arc::clone(&visits);
    app.on_reload(move || async move { println!("{pid}: ends after {} visits", show(&counted)) });
    let router = Router::new().route("/", get(visit)).with_state(visits);
    app.serve(app.listener("127.0.0.1:8888")?, Tower::new(router))
        .await
}

async fn visit(State(visits): State<Visits>) -> Result<String, (StatusCode, String)> {
    let number = visits.update(|visits| {
        *visits += 1;
        *visits
    });
    let failed =
        |error: gapless::app::KeepError| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
    number.map(|number| format!("{number}\n")).map_err(failed)
}

fn show(visits: &Kept<u64>) -> String {
    visits
        .get()
        .map_or_else(|error| error.to_string(), |visits| visits.to_string())
}

/// $EVERY_MS; else each minute.
fn every() -> Duration {
    let said = std::env::var("EVERY_MS")
        .ok()
        .and_then(|ms| ms.parse().ok());
    said.map_or(Duration::from_mins(1), Duration::from_millis)
}
