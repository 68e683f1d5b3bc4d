use super::*;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;

/// A keeper that says one thing to the first who asks; what it was asked comes back.
fn keeper(test: &str, says: &'static str) -> (Instance, std::thread::JoinHandle<String>) {
    keeper_after(0, test, says)
}

/// The same, but so many are cut off before.
fn keeper_after(
    cut_off: usize,
    test: &str,
    says: &'static str,
) -> (Instance, std::thread::JoinHandle<String>) {
    let name = format!("gapless-client-{}-{test}.sock", std::process::id());
    let socket = std::env::temp_dir().join(name);
    let listener = UnixListener::bind(&socket).unwrap();
    let path = socket.clone();
    let thread = std::thread::spawn(move || {
        for _ in 0..cut_off {
            drop(listener.accept().unwrap());
        }
        let (mut stream, _) = listener.accept().unwrap();
        let mut asked = [0; 1024];
        let length = stream.read(&mut asked).unwrap();
        stream.write_all(says.as_bytes()).unwrap();
        if says.is_empty() {
            // Holds on until the client gives up.
            stream.read_to_end(&mut Vec::new()).unwrap();
        }
        std::fs::remove_file(path).unwrap();
        String::from_utf8_lossy(&asked[..length]).into_owned()
    });
    (
        Instance {
            name: "test".parse().unwrap(),
            socket,
        },
        thread,
    )
}

fn instance(socket: &Path) -> Instance {
    Instance {
        name: "shop".parse().unwrap(),
        socket: socket.to_owned(),
    }
}

#[test]
fn an_answer_is_read_whole() {
    let (instance, keeper) = keeper("whole", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n42");
    let answer = ask(&instance, Method::POST, "/reload", None).unwrap();
    assert_eq!(answer.read::<u32>().unwrap(), 42);
    assert!(
        keeper
            .join()
            .unwrap()
            .starts_with("POST /reload HTTP/1.1\r\n")
    );
}

#[test]
fn no_answer_in_time_exits_with_7() {
    let (instance, keeper) = keeper("slow", "");
    let limit = Some(Duration::from_millis(50));
    let error = ask(&instance, Method::POST, "/reload", limit).unwrap_err();
    assert_eq!(error.to_string(), "no answer to POST /reload within 50ms");
    assert_eq!(error.exit(), Exit::TimedOut);
    keeper.join().unwrap();
}

#[test]
fn a_connection_that_ends_early_is_said() {
    let (instance, keeper) = keeper("early", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n4");
    let error = ask(&instance, Method::POST, "/reload", Some(ANSWER_LIMIT)).unwrap_err();
    assert!(matches!(error, ClientError::Broken { .. }), "{error:?}");
    keeper.join().unwrap();
}

#[test]
fn what_changes_nothing_is_asked_again_when_the_connection_breaks() {
    let says = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n4";
    let (instance, keeper) = keeper_after(1, "again", says);
    let answer = ask(&instance, Method::GET, "/status", Some(ANSWER_LIMIT)).unwrap();
    assert_eq!(answer.read::<u8>().unwrap(), 4);
    keeper.join().unwrap();
}

#[test]
fn an_answer_that_is_not_understood_is_shown() {
    let says = "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 4\r\n\r\noops";
    let (instance, keeper) = keeper("odd", says);
    let answer = ask(&instance, Method::GET, "/status", Some(ANSWER_LIMIT)).unwrap();
    let error = answer.read::<u32>().unwrap_err();
    let expected = "GET /status was answered with 500 Internal Server Error: oops";
    assert_eq!(error.to_string(), expected);
    keeper.join().unwrap();
}

#[test]
fn no_socket_exits_with_3_and_says_how_to_start() {
    let missing = instance(Path::new("/nonexistent/control.sock"));
    let error = ask(&missing, Method::GET, "/status", Some(ANSWER_LIMIT)).unwrap_err();
    assert_eq!(error.exit(), Exit::NotRunning);
    assert!(
        error
            .to_string()
            .contains("systemctl start gapless@shop.socket"),
        "{error}"
    );
}

#[test]
fn a_socket_that_is_not_for_us_exits_with_4() {
    let denied = io::Error::from(io::ErrorKind::PermissionDenied);
    let error = refused_connection(&instance(Path::new("/run/x")), denied);
    assert_eq!(error.exit(), Exit::NotAllowed);
    assert!(
        error.to_string().contains("sudo usermod -aG gapless"),
        "{error}"
    );
}
