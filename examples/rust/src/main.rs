//! An axum app on `gapless::app`: the socket, READY=1, the watchdog and SIGTERM are its business.

use axum::Router;
use axum::extract::Query;
use axum::routing::get;
use gapless::app::{App, AppError, Tower};
use std::collections::HashMap;
use std::time::Duration;

const VERSION: &str = "v1";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), AppError> {
    let app = App::new()?;
    let router = Router::new()
        .route("/", get(hello))
        .route("/slow", get(slow));
    app.serve(app.listener("127.0.0.1:8888")?, Tower::new(router))
        .await
}

async fn hello() -> String {
    format!("hello from rust {VERSION}\n")
}

async fn slow(Query(query): Query<HashMap<String, String>>) -> String {
    let ms = query.get("ms").and_then(|ms| ms.parse().ok());
    tokio::time::sleep(Duration::from_millis(ms.unwrap_or(0))).await;
    hello().await
}
