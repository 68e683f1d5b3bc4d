//! What hyper says to a head that it cannot read has no text; whoever wrote the client wants to know why.

use crate::front::guard::Fault;
use hyper::body::Bytes;

/// Of hyper's answers without a body.
const NO_BODY: &[u8] = b"content-length: 0\r\n";

/// hyper's answer, with the reason in it; as it is, where it is another one. `fault`: what did not pass.
pub(super) fn with_text(answer: &[u8], status: Option<u16>, fault: Option<Fault>) -> Bytes {
    let place = answer.windows(NO_BODY.len()).position(|it| it == NO_BODY);
    let Some((head, rest)) = place.and_then(|at| answer.split_at_checked(at)) else {
        return Bytes::copy_from_slice(answer);
    };
    let rest = rest.get(NO_BODY.len()..).unwrap_or_default();
    let text = text(status, fault);
    let fields = format!(
        "content-type: text/plain; charset=utf-8\r\ncache-control: no-store\r\ncontent-length: {}\r\n",
        text.len()
    );
    [head, fields.as_bytes(), rest, text.as_bytes()]
        .concat()
        .into()
}

fn text(status: Option<u16>, fault: Option<Fault>) -> &'static str {
    match (fault, status) {
        (Some(fault), _) => match fault {
            Fault::BareLineFeed => "a line of the request ends with LF alone",
            Fault::FoldedLine => "a field of the request goes on in a second line",
            Fault::Fragment => "the request target has a fragment (#)",
            Fault::Http2 => "this is HTTP/2; here HTTP/1.1 is spoken",
            Fault::ContentLength => "Content-Length is repeated or no number",
            Fault::TransferEncoding => "Transfer-Encoding is repeated or other than chunked",
            Fault::LengthAndEncoding => "the request has Content-Length and Transfer-Encoding",
            Fault::Chunk => "the chunks of the request body are malformed",
        },
        (None, Some(431)) => "the fields of the request are too many or too large",
        (None, Some(414)) => "the request target is too long",
        (None, Some(_) | None) => {
            "the request is not HTTP/1.1: its first line or a field is malformed"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_as_long_as_the_answer_says() {
        let of_hyper =
            b"HTTP/1.1 431 Too Large\r\nconnection: close\r\ncontent-length: 0\r\ndate: x\r\n\r\n";
        let answer = with_text(of_hyper, Some(431), None);
        let answer = String::from_utf8(answer.to_vec()).unwrap();
        let (head, text) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 431 Too Large\r\nconnection: close\r\n"));
        assert!(head.ends_with(&format!("content-length: {}\r\ndate: x", text.len())));
        assert_eq!(text, "the fields of the request are too many or too large");
        let other = b"HTTP/1.1 400 Bad Request\r\n\r\n";
        assert_eq!(&*with_text(other, Some(400), None), other);
    }
}
