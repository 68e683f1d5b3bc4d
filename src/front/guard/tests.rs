use super::*;
use proptest::prelude::*;

fn verdict(bytes: &str) -> Verdict {
    Guard::new().check(bytes.as_bytes())
}

fn fault(bytes: &str) -> Option<Fault> {
    match verdict(bytes) {
        Verdict::Fault(_, fault) => Some(fault),
        Verdict::Pass | Verdict::Hold(_) | Verdict::Encode(_) => None,
    }
}

fn with(fields: &str) -> Option<Fault> {
    fault(&format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"))
}

#[test]
fn ordinary_requests_pass_also_in_a_row() {
    let get = "GET /a HTTP/1.1\r\nHost: a\r\n\r\n";
    let sized = "POST / HTTP/1.1\r\ncontent-length: \t5 \r\n\r\n\n\n#\n\n";
    let chunked = "POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n\
                   A;x=\"y\"\r\n0123456789\r\n5 ;z\r\n\r\n\r\n\n\r\n0\r\nX-Sum: 1\r\n\r\n";
    let all = format!("\r\n{get}{sized}\r\n{chunked}{get}{sized}");
    assert_eq!(verdict(&all), Verdict::Pass);
    assert_eq!(fault(&format!("{all}GET /\n")), Some(Fault::BareLineFeed));
}

#[test]
fn what_follows_a_connect_waits_for_its_answer() {
    let connect = "CONNECT b:443 HTTP/1.1\r\nHost: b:443\r\n\r\n";
    let end = Verdict::Hold(connect.len());
    assert_eq!(verdict(&format!("{connect}\n#\n")), end);
    let get = "GET /CONNECT HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut guard = Guard::new();
    assert_eq!(guard.check(connect.as_bytes()), end);
    assert!(guard.is_connect());
    assert_eq!(guard.check(get.as_bytes()), Verdict::Pass);
    assert!(!guard.is_connect());
    let sized = connect.replace("Host", "Content-Length: 2\r\nHost") + "ab" + get;
    assert_eq!(verdict(&sized), Verdict::Pass);
}

#[test]
fn there_is_one_way_to_say_where_a_request_ends() {
    let length = Some(Fault::ContentLength);
    for fields in [
        "5",
        "05, 5",
        "5, 5",
        "+5",
        "-1",
        "",
        "0x5",
        "5 5",
        "5;",
        "18446744073709551616",
    ] {
        let line = format!("Content-Length: {fields}\r\n");
        let is_plain = fields == "5";
        assert_eq!(with(&line).is_none(), is_plain, "{fields}");
    }
    assert_eq!(with("Content-Length: 5\r\nContent-Length: 5\r\n"), length);
    assert_eq!(
        with(&format!("Content-Length:{}5\r\n", " ".repeat(80))),
        length
    );
    let encoding = Some(Fault::TransferEncoding);
    for value in [
        "identity",
        "gzip, chunked",
        "chunked, chunked",
        "xchunked",
        "chunked;q",
        "",
        "\"chunked\"",
    ] {
        assert_eq!(
            with(&format!("Transfer-Encoding: {value}\r\n")),
            encoding,
            "{value}"
        );
    }
    let chunked = "transfer-encoding: chunked\r\n";
    assert_eq!(with(&format!("{chunked}{chunked}")), encoding);
    let both = Some(Fault::LengthAndEncoding);
    assert_eq!(with(&format!("{chunked}Content-Length: 5\r\n")), both);
    assert_eq!(with(&format!("Content-Length: 0\r\n{chunked}")), both);
}

#[test]
fn a_line_ends_with_both_and_is_never_folded() {
    assert_eq!(with("X: y\n"), Some(Fault::BareLineFeed));
    assert_eq!(fault("GET / HTTP/1.1\n"), Some(Fault::BareLineFeed));
    assert_eq!(fault("\nGET / HTTP/1.1\r\n"), Some(Fault::BareLineFeed));
    assert_eq!(with("X: y\r\n z\r\n"), Some(Fault::FoldedLine));
    assert_eq!(fault("GET /a#b HTTP/1.1\r\n"), Some(Fault::Fragment));
}

#[test]
fn a_chunk_has_one_form() {
    let head = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    for bad in [
        "5\nhello\r\n",
        "5\r\nhello\n",
        "5\r\nhelloX",
        "-1\r\n",
        "+5\r\n",
        "0x5\r\n",
        "\r\n",
        " 5\r\n",
        "5 \r\n",
        "5\r\r\n",
        "5;a\nb\r\n",
        "5;\0\r\n",
        "ffffffffffffffff0\r\n",
        "00000000000000005\r\n",
        "5;a\rb\r\n",
        "g\r\n",
    ] {
        assert_eq!(
            fault(&format!("{head}{bad}")),
            Some(Fault::Chunk),
            "{bad:?}"
        );
    }
    for bad in ["0\r\nX: y\n\r\n", "0\r\n\n"] {
        assert_eq!(
            fault(&format!("{head}{bad}")),
            Some(Fault::BareLineFeed),
            "{bad:?}"
        );
    }
}

#[test]
fn what_follows_a_wish_to_upgrade_is_held_back() {
    let head = "GET / HTTP/1.1\r\nUpgrade: echo\r\n\r\n";
    assert_eq!(verdict(&format!("{head}\n\n")), Verdict::Hold(head.len()));
    assert_eq!(
        verdict("POST / HTTP/1.1\r\nUpgrade: e\r\nContent-Length: 1\r\n\r\nxGET"),
        Verdict::Pass
    );
}

#[test]
fn nothing_of_the_bad_line_passes() {
    let bytes = "GET / HTTP/1.1\r\nX: y\nZ: 1\r\n\r\n";
    let at = bytes.find('X').unwrap();
    assert_eq!(verdict(bytes), Verdict::Fault(at, Fault::BareLineFeed));
}

proptest! {
    #[test]
    fn it_does_not_matter_in_which_pieces_bytes_come(
        bytes in "(GET / HTTP/1.1\r\n|Content-Length: [0-9]\r\n|Transfer-Encoding: chunked\r\n|\r\n|\n|[0-3]\r\n|[a#;< ]){0,12}",
        cut in 0_usize..200,
    ) {
        let bytes = bytes.as_bytes();
        let (one, two) = bytes.split_at(cut.min(bytes.len()));
        let whole = Guard::new().check(bytes);
        let mut guard = Guard::new();
        let parts = match guard.check(one) {
            Verdict::Pass => match guard.check(two) {
                Verdict::Fault(at, fault) => Verdict::Fault(at + one.len(), fault),
                held @ (Verdict::Pass | Verdict::Hold(_) | Verdict::Encode(_)) => held,
            },
            held @ (Verdict::Hold(_) | Verdict::Encode(_) | Verdict::Fault(..)) => held,
        };
        prop_assert_eq!(matches!(whole, Verdict::Pass), matches!(parts, Verdict::Pass));
        if let (Verdict::Fault(_, whole), Verdict::Fault(_, parts)) = (whole, parts) {
            prop_assert_eq!(whole, parts);
        }
    }

    #[test]
    fn no_bytes_make_it_fail(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        Guard::new().check(&bytes);
    }
}

#[test]
fn requests_are_whole_only_between_the_last_byte_of_one_and_the_first_of_the_next() {
    let mut guard = Guard::new();
    let parts: [(&[u8], Option<u64>); 9] = [
        (b"", Some(0)),
        (b"G", None),
        (b"ET / HTTP/1.1\r\nHost: t\r\n\r", None),
        (b"\n", Some(1)),
        (b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\na", None),
        (b"b", Some(2)),
        (
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
            None,
        ),
        (b"\r\nGET / HTTP/1.1\r\n\r\n", Some(4)),
        (b"\r", None),
    ];
    for (bytes, whole) in parts {
        assert_eq!(guard.check(bytes), Verdict::Pass);
        assert_eq!(guard.whole_requests(), whole, "after {bytes:?}");
    }
}

#[test]
fn an_options_whose_absolute_target_may_have_no_path_is_told_by_its_number() {
    let heads = b"OPTIONS http://a HTTP/1.1\r\n\r\nOPTIONS http://a/ HTTP/1.1\r\n\r\n\
        OPTIONS * HTTP/1.1\r\n\r\nGET http://a HTTP/1.1\r\n\r\nOPTIONS http://a? HTTP/1.1\r\n\r\n\
        \r\nOPTIONS https://[::1]:80 HTTP/1.0\r\n\r\n";
    for cut in 0..heads.len() {
        let (one, two) = heads.split_at(cut);
        let mut guard = Guard::new();
        assert_eq!(guard.check(one), Verdict::Pass);
        let mut told = guard.take_pathless();
        assert_eq!(guard.check(two), Verdict::Pass);
        told.extend(guard.take_pathless());
        assert_eq!(told, [1, 6], "cut at {cut}");
    }
}

/// What passes in the end, as the stream does it, and whether anything was encoded.
fn passed(pieces: &[&[u8]]) -> Vec<u8> {
    let mut guard = Guard::new();
    let mut passed = Vec::new();
    for piece in pieces {
        let mut rest = piece.to_vec();
        loop {
            match guard.check(&rest) {
                Verdict::Pass => break passed.extend(rest),
                Verdict::Encode(at) => {
                    let behind = rest.split_off(at);
                    passed.append(&mut rest);
                    rest = guard.encoded(&behind);
                }
                other @ (Verdict::Hold(_) | Verdict::Fault(..)) => panic!("{other:?}"),
            }
        }
    }
    passed
}

#[test]
fn what_no_target_may_have_is_encoded_and_nothing_else() {
    for (target, wanted) in [
        (
            &b"/q?query=up{job=\"node\"}|a\\b^c`"[..],
            "/q?query=up{job=%22node%22}|a\\b^c`",
        ),
        (b"/a\"b<c>`d?<e>?\"", "/a\"b%3Cc%3E%60d?%3Ce%3E?%22"),
        (b"/caf\xc3\xa9?\xc3\xa9", "/caf\u{e9}?\u{e9}"),
        (b"/caf\xe9?a=\xff", "/caf%E9?a=%FF"),
        (b"http://h/p?\"", "http://h/p?%22"),
    ] {
        let request = [b"GET ", target, b" HTTP/1.1\r\nA: <\"\xe9\r\n\r\n"].concat();
        let end = &b" HTTP/1.1\r\nA: <\"\xe9\r\n\r\n"[..];
        let wanted = [b"GET ", wanted.as_bytes(), end].concat();
        let twice = [&*request, &*request].concat();
        assert_eq!(passed(&[&twice]), [&*wanted, &*wanted].concat());
        // A character of more bytes may be cut, and then its bytes are encoded, which means the same.
        let is_text = std::str::from_utf8(target).is_ok_and(|target| !target.is_ascii());
        for at in 0..if is_text { 0 } else { request.len() } {
            let (one, two) = request.split_at(at);
            assert_eq!(passed(&[one, two]), wanted, "cut at {at}");
        }
    }
    // Neither a method nor a version is mended.
    for line in [
        "G\"T / HTTP/1.1\r\n",
        "GET / HTTP/\"\r\n",
        "\"GET / HTTP/1.1\r\n",
    ] {
        assert_eq!(verdict(line), Verdict::Pass, "{line}");
    }
}
