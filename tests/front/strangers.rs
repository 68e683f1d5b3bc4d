//! What clients say of themselves, as it reaches the app: strangers, and proxies that are trusted.

use super::world::{App, Client, Front, Port, http, live};
use gapless::config::HttpConfig;
use gapless::link::Orphaned;

const OF_PROXIES: [&str; 10] = [
    "X-Forwarded-Port",
    "X-Forwarded-User",
    "X-Forwarded-Client-Cert",
    "X-Real-IP",
    "CF-Connecting-IP",
    "X-Original-URL",
    "X-Amzn-Oidc-Identity",
    "Remote-User",
    "SSL-Client-Cert",
    "X-Accel-Mapping",
];

const LOOKALIKES: [&str; 7] = [
    "X_Forwarded_For",
    "X.Real-IP",
    "X~Forwarded~Proto",
    "X_Request_Id",
    "Content_Length",
    "Content.Type",
    "Transfer!Encoding",
];

const VARIABLES: [&str; 5] = [
    "SCRIPT_NAME",
    "PATH_INFO",
    "REMOTE_ADDR",
    "HTTPS_",
    "wsgi.url_scheme",
];

const ODD: [&str; 4] = ["X_Mine", "my.field", "x|y", "~"];

const PLAIN: [&str; 4] = ["X-Mine", "Authorization", "Cookie", "X-Api-Key"];

struct World {
    port: Port,
    front: Front,
    _app: App,
}

impl World {
    async fn start(trusts_us: bool, odd_field_names: bool) -> Self {
        let trusted = trusts_us.then(|| "127.0.0.0/8".parse().unwrap());
        let http = HttpConfig {
            trusted_proxies: trusted.into_iter().collect(),
            odd_field_names,
            ..http()
        };
        let (port, app) = (Port::open(), App::start("app").await);
        let mut front = Front::start_with(&port, http, Orphaned::ServeOn).await;
        front.serve(1, live(1, &[app.address])).await;
        Self {
            port,
            front,
            _app: app,
        }
    }

    /// Those of `names` that the app sees as they were said.
    async fn passing<'n>(&self, names: &[&'n str]) -> Vec<&'n str> {
        let mut client = Client::connect(&self.port).await;
        let fields: String = names
            .iter()
            .map(|name| format!("{name}: SAID\r\n"))
            .collect();
        client
            .send(&format!("GET /head HTTP/1.1\r\nHost: a\r\n{fields}\r\n"))
            .await;
        let seen = client.answer().await.body;
        let is_seen = |name: &str| seen.contains(&format!("\n{}: SAID", name.to_lowercase()));
        names.iter().copied().filter(|name| is_seen(name)).collect()
    }
}

#[tokio::test]
async fn a_stranger_says_nothing_that_only_a_proxy_can_know() {
    for odd_field_names in [false, true] {
        let world = World::start(false, odd_field_names).await;
        for names in [&OF_PROXIES[..], &LOOKALIKES, &VARIABLES] {
            assert_eq!(world.passing(names).await, [""; 0]);
        }
        assert_eq!(world.passing(&PLAIN).await, PLAIN);
        let odd = world.passing(&ODD).await;
        assert_eq!(odd, if odd_field_names { &ODD[..] } else { &[] });
        world.front.end().await;
    }
}

#[tokio::test]
async fn a_trusted_proxy_says_it_but_in_no_odd_spelling() {
    for odd_field_names in [false, true] {
        let world = World::start(true, odd_field_names).await;
        assert_eq!(world.passing(&OF_PROXIES).await, OF_PROXIES);
        assert_eq!(world.passing(&PLAIN).await, PLAIN);
        assert_eq!(world.passing(&LOOKALIKES).await, [""; 0]);
        for names in [&ODD[..], &VARIABLES] {
            let passing = world.passing(names).await;
            assert_eq!(passing, if odd_field_names { names } else { &[] });
        }
        world.front.end().await;
    }
}

#[tokio::test]
async fn a_refusal_of_what_has_two_readings_ends_the_connection_and_one_of_a_clear_request_does_not()
 {
    let world = World::start(false, false).await;
    for doubtful in [
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET a HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET * HTTP/1.1\r\nHost: a\r\n\r\n",
        "get / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://u@b/ HTTP/1.1\r\nHost: b\r\n\r\n",
    ] {
        let mut client = Client::connect(&world.port).await;
        client.send(doubtful).await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let answer = client.answer().await;
        assert!(matches!(answer.status, 400 | 501), "{doubtful}");
        assert_eq!(answer.field("connection"), Some("close"), "{doubtful}");
        assert_eq!(client.ends().await, "", "{doubtful}");
    }
    let mut client = Client::connect(&world.port).await;
    client
        .send("GET / HTTP/1.1\r\nHost: a\r\nExpect: magic\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.status, 417);
    assert_eq!(client.get("/").await.status, 200);
    world.front.end().await;
}
