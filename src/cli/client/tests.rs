use super::*;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;

fn directory(test: &str) -> PathBuf {
    let name = format!("gapless-client-{}-{test}", std::process::id());
    let directory = std::env::temp_dir().join(name);
    std::fs::create_dir(&directory).unwrap();
    directory
}

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
    let directory = directory(test);
    let socket = directory.join("control.sock");
    let listener = UnixListener::bind(&socket).unwrap();
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
        std::fs::remove_dir_all(directory).unwrap();
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
fn no_socket_exits_with_3() {
    let missing = instance(Path::new("/nonexistent/control.sock"));
    let error = ask(&missing, Method::GET, "/status", Some(ANSWER_LIMIT)).unwrap_err();
    assert_eq!(error.exit(), Exit::NotRunning);
    assert_eq!(error.to_string(), "shop is not running");
}

#[test]
fn a_socket_that_is_not_for_us_exits_with_4() {
    let denied = io::Error::from(io::ErrorKind::PermissionDenied);
    let error = connect::refused(&instance(Path::new("/run/x")), denied);
    assert_eq!(error.exit(), Exit::NotAllowed);
    let unit = "SocketGroup= of gapless-control@shop.socket";
    assert!(error.to_string().contains(unit), "{error}");
}

/// What the owner of a runtime directory may put in the place of the control socket.
#[test]
fn what_is_no_socket_of_its_directorys_owner_is_not_asked() {
    let directory = directory("distrusted");
    let victim = directory.join("victim.sock");
    let listener = UnixListener::bind(&victim).unwrap();
    let places = ["link", "file", "directory", "broken"].map(|name| directory.join(name));
    std::os::unix::fs::symlink(&victim, &places[0]).unwrap();
    std::fs::write(&places[1], "").unwrap();
    std::fs::create_dir(&places[2]).unwrap();
    std::os::unix::fs::symlink("/nowhere", &places[3]).unwrap();
    for place in places {
        let error = ask(
            &instance(&place),
            Method::POST,
            "/drain",
            Some(ANSWER_LIMIT),
        )
        .unwrap_err();
        let is_told = matches!(error, ClientError::Distrusted { .. });
        assert!(is_told, "{}: {error}", place.display());
    }
    let linked = directory.join("linked");
    std::os::unix::fs::symlink(&directory, &linked).unwrap();
    let below_link = instance(&linked.join("victim.sock"));
    ask(&below_link, Method::POST, "/drain", Some(ANSWER_LIMIT)).unwrap_err();
    listener.set_nonblocking(true).unwrap();
    assert_eq!(
        listener.accept().unwrap_err().kind(),
        io::ErrorKind::WouldBlock
    );
    std::fs::remove_dir_all(directory).unwrap();
}

/// As root: any two users.
#[test]
fn a_socket_or_a_process_of_another_user_is_not_asked() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let directory = directory("strange");
    let (app, other) = (65_534, 65_533);
    let socket = directory.join("control.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let asked = |what: &str| {
        let error = ask(
            &instance(&socket),
            Method::POST,
            "/drain",
            Some(ANSWER_LIMIT),
        );
        let error = error.unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    };
    std::os::unix::fs::chown(&directory, Some(app), None).unwrap();
    asked("it belongs to the user 0, and its directory to 65534");
    std::os::unix::fs::chown(&socket, Some(other), None).unwrap();
    asked("it belongs to the user 65533, and its directory to 65534");
    // As after a rename of somebody else's: the file fits, who listens does not.
    std::os::unix::fs::chown(&socket, Some(app), None).unwrap();
    asked("a process of the user 0 answers there");
    drop(listener);
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn what_a_keeper_says_cannot_move_the_cursor() {
    let said = br#"{"a\u001b[2J": ["\u001b]0;x\u0007b", "\u009b31m", {"c": "d\r\ne"}], "n": 7}"#;
    let read: serde_json::Value = understand(said).unwrap();
    let text = read["a\u{1b}[2J"].to_string();
    assert!(
        !text.chars().any(char::is_control) && !text.contains("\\u"),
        "{text}"
    );
    assert_eq!(read["n"], 7);
}
