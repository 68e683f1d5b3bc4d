//! The few bytes of D-Bus that one method call takes, as the D-Bus specification has it ("Message
//! Protocol"), little endian. Pure: no socket, no clock.
//!
//! Never a general D-Bus library: what is not needed for a call with one reply is not here.

/// Longest reply that is read: all properties of a service are some 40 kB, and more with a long
/// environment.
pub(super) const REPLY_BYTES_MAX: usize = 1024 * 1024;

/// The fixed part of every message.
const HEADER_BYTES: usize = 16;

const METHOD_CALL: u8 = 1;
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;
const NO_FLAGS: u8 = 0;
const PROTOCOL: u8 = 1;

/// What came back.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// The call was accepted, with this body.
    Return(Vec<u8>),
    /// It was refused, with this text.
    Error(String),
}

/// Not D-Bus, or more of it than we expect.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotDbus;

/// Values one after the other, each at its alignment.
#[derive(Debug, Default)]
pub(super) struct Body(Vec<u8>);

impl Body {
    fn align(&mut self, to: usize) {
        let length = self.0.len().next_multiple_of(to);
        self.0.resize(length, 0);
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.align(4);
        self.0.extend(value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.align(8);
        self.0.extend(value.to_le_bytes());
    }

    pub(super) fn bool(&mut self, value: bool) {
        self.u32(value.into());
    }

    pub(super) fn string(&mut self, text: &str) {
        self.u32(length(text.len()));
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    pub(super) fn signature(&mut self, text: &str) {
        // No signature of ours is longer than a few characters.
        self.0.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    /// An array: its length counts from the first element, not from the padding before it.
    pub(super) fn array(&mut self, element_alignment: usize, fill: impl FnOnce(&mut Self)) {
        self.align(4);
        let at = self.0.len();
        self.u32(0);
        self.align(element_alignment);
        let begin = self.0.len();
        fill(self);
        let bytes = length(self.0.len().saturating_sub(begin)).to_le_bytes();
        let slot = at..at.saturating_add(bytes.len());
        if let Some(place) = self.0.get_mut(slot) {
            place.copy_from_slice(&bytes);
        }
    }

    /// One `(sv)`.
    pub(super) fn property(&mut self, name: &str, signature: &str, value: impl FnOnce(&mut Self)) {
        self.align(8);
        self.string(name);
        self.signature(signature);
        value(self);
    }

    /// An `(sv)` whose bytes are there already, from a multiple of 8 on.
    pub(super) fn entry(&mut self, bytes: &[u8]) {
        self.align(8);
        self.0.extend(bytes);
    }

    #[cfg(test)]
    pub(super) fn struct_(&mut self, fill: impl FnOnce(&mut Self)) {
        self.align(8);
        fill(self);
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn field(&mut self, code: u8, signature: &str, value: impl FnOnce(&mut Self)) {
        self.align(8);
        self.0.push(code);
        self.signature(signature);
        value(self);
    }
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// What is called, and where.
pub(super) struct Method<'a> {
    pub(super) path: &'a str,
    pub(super) interface: &'a str,
    pub(super) member: &'a str,
    /// Of the arguments.
    pub(super) signature: &'a str,
}

/// The object path of a unit: every other byte than letters and digits is `_` and hexadecimal.
pub(super) fn unit_path(unit: &str) -> String {
    let mut path = String::from("/org/freedesktop/systemd1/unit/");
    for (at, byte) in unit.bytes().enumerate() {
        if byte.is_ascii_alphabetic() || (at > 0 && byte.is_ascii_digit()) {
            path.push(char::from(byte));
        } else {
            path.push('_');
            for digit in [byte >> 4, byte & 15] {
                path.extend(char::from_digit(digit.into(), 16));
            }
        }
    }
    path
}

/// A call of one of systemd's objects, to be answered under `serial`.
pub(super) fn call(method: &Method<'_>, body: &Body, serial: u32) -> Vec<u8> {
    let mut message = Body::default();
    message.0.extend([b'l', METHOD_CALL, NO_FLAGS, PROTOCOL]);
    message.u32(length(body.0.len()));
    message.u32(serial);
    message.array(8, |fields| {
        fields.field(1, "o", |v| v.string(method.path));
        fields.field(2, "s", |v| v.string(method.interface));
        fields.field(3, "s", |v| v.string(method.member));
        fields.field(6, "s", |v| v.string("org.freedesktop.systemd1"));
        fields.field(8, "g", |v| v.signature(method.signature));
    });
    message.align(8);
    message.0.extend(&body.0);
    message.0
}

/// Finds the reply to `serial` in what was received so far: the line that ends the authentication,
/// then messages, of which others (signals) are passed over. None: more must be read.
pub(super) fn find_reply(received: &[u8], serial: u32) -> Result<Option<Reply>, NotDbus> {
    let Some(mut rest) = after_authentication(received)? else {
        return Ok(None);
    };
    while let Some((message, next)) = split_message(rest)? {
        if let Some(reply) = message.reply_to(serial)? {
            return Ok(Some(reply));
        }
        rest = next;
    }
    Ok(None)
}

/// `OK GUID\r\n`, or `REJECTED …`.
fn after_authentication(received: &[u8]) -> Result<Option<&[u8]>, NotDbus> {
    let begins = received.iter().zip(b"OK ").all(|(a, b)| a == b);
    if !begins {
        return Err(NotDbus);
    }
    let end = received.windows(2).position(|pair| pair == b"\r\n");
    Ok(end.and_then(|end| received.get(end.saturating_add(2)..)))
}

#[derive(Debug)]
struct Message<'a> {
    kind: u8,
    fields: &'a [u8],
    body: &'a [u8],
}

/// The first message and what follows it; none when it is not yet whole.
fn split_message(bytes: &[u8]) -> Result<Option<(Message<'_>, &[u8])>, NotDbus> {
    let Some((header, _)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return Ok(None);
    };
    let &[
        endian,
        kind,
        _flags,
        _protocol,
        b0,
        b1,
        b2,
        b3,
        _,
        _,
        _,
        _,
        f0,
        f1,
        f2,
        f3,
    ] = header;
    let body_length = size([b0, b1, b2, b3])?;
    let fields_length = size([f0, f1, f2, f3])?;
    if endian != b'l' {
        return Err(NotDbus);
    }
    let fields_end = HEADER_BYTES.saturating_add(fields_length);
    let body_begin = fields_end.next_multiple_of(8);
    let end = body_begin.saturating_add(body_length);
    let parts = (
        bytes.get(HEADER_BYTES..fields_end),
        bytes.get(body_begin..end),
        bytes.get(end..),
    );
    let (Some(fields), Some(body), Some(next)) = parts else {
        return Ok(None);
    };
    Ok(Some((Message { kind, fields, body }, next)))
}

fn size(bytes: [u8; 4]) -> Result<usize, NotDbus> {
    let value = usize::try_from(u32::from_le_bytes(bytes)).map_err(|_| NotDbus)?;
    if value > REPLY_BYTES_MAX {
        return Err(NotDbus);
    }
    Ok(value)
}

impl Message<'_> {
    fn reply_to(&self, serial: u32) -> Result<Option<Reply>, NotDbus> {
        if reply_serial(self.fields)? != Some(serial) {
            return Ok(None);
        }
        match self.kind {
            METHOD_RETURN => Ok(Some(Reply::Return(self.body.to_owned()))),
            ERROR => Ok(Some(Reply::Error(first_string(self.body)))),
            _ => Err(NotDbus),
        }
    }
}

/// Field 5, a `u`. The header begins at a multiple of 8 and so do its fields, each of which is a
/// byte, a signature of one character here, and the value.
fn reply_serial(fields: &[u8]) -> Result<Option<u32>, NotDbus> {
    const REPLY_SERIAL: u8 = 5;
    let mut at = 0_usize;
    while at < fields.len() {
        let field = fields.get(at..).ok_or(NotDbus)?;
        let Some((&[code, 1, kind, 0], value)) = field.split_first_chunk::<4>() else {
            return Err(NotDbus);
        };
        if (code, kind) == (REPLY_SERIAL, b'u') {
            let (serial, _) = value.split_first_chunk::<4>().ok_or(NotDbus)?;
            return Ok(Some(u32::from_le_bytes(*serial)));
        }
        at = at
            .saturating_add(4)
            .saturating_add(value_length(kind, value)?);
        at = at.next_multiple_of(8);
    }
    Ok(None)
}

fn value_length(kind: u8, value: &[u8]) -> Result<usize, NotDbus> {
    let text = |prefix: usize, length: usize| prefix.saturating_add(length).saturating_add(1);
    match kind {
        b'u' => Ok(4),
        b's' | b'o' => {
            let (length, _) = value.split_first_chunk::<4>().ok_or(NotDbus)?;
            Ok(text(4, size(*length)?))
        }
        b'g' => Ok(text(1, usize::from(*value.first().ok_or(NotDbus)?))),
        _ => Err(NotDbus),
    }
}

/// The first value of an error's body is its text.
fn first_string(body: &[u8]) -> String {
    let text = body.split_first_chunk::<4>().and_then(|(length, rest)| {
        let length = size(*length).ok()?;
        rest.get(..length)
    });
    String::from_utf8_lossy(text.unwrap_or(b"no reason given")).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn answer(kind: u8, serial: u32, text: &str) -> Vec<u8> {
        let mut body = Body::default();
        body.string(text);
        let mut message = Body::default();
        message.0.extend([b'l', kind, 1, PROTOCOL]);
        message.u32(length(body.0.len()));
        message.u32(77);
        message.array(8, |fields| {
            fields.field(4, "s", |v| v.string("org.freedesktop.systemd1.Odd"));
            fields.field(8, "g", |v| v.signature("s"));
            fields.field(5, "u", |v| v.u32(serial));
        });
        message.align(8);
        message.0.extend(&body.0);
        message.0
    }

    fn stream(messages: &[Vec<u8>]) -> Vec<u8> {
        [b"OK 0123456789abcdef\r\n".to_vec(), messages.concat()].concat()
    }

    #[test]
    fn a_call_has_the_bytes_of_the_specification() {
        let mut body = Body::default();
        body.string("ab");
        let method = Method {
            path: "/org/freedesktop/systemd1",
            interface: "org.freedesktop.systemd1.Manager",
            member: "Foo",
            signature: "s",
        };
        let message = call(&method, &body, 1);
        assert_eq!(&message[..4], [b'l', 1, 0, 1]);
        assert_eq!(&message[4..8], 7_u32.to_le_bytes());
        assert_eq!(&message[8..12], 1_u32.to_le_bytes());
        let fields = u32::from_le_bytes(message[12..16].try_into().unwrap());
        let begin = (16 + usize::try_from(fields).unwrap()).next_multiple_of(8);
        assert_eq!(&message[begin..], b"\x02\0\0\0ab\0");
        assert_eq!(&message[16..24], b"\x01\x01o\0\x19\0\0\0");
    }

    #[test]
    fn the_length_of_an_array_leaves_out_the_padding_before_it() {
        let mut body = Body::default();
        body.array(8, |array| array.u64(1));
        assert_eq!(&body.0[..8], [8, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(body.0.len(), 16);
    }

    #[test]
    fn the_reply_is_found_behind_other_messages_and_in_pieces() {
        let signal = answer(4, 0, "other");
        let bytes = stream(&[signal, answer(METHOD_RETURN, 1, "/job/1")]);
        for end in 0..bytes.len() {
            assert_eq!(find_reply(&bytes[..end], 1), Ok(None), "cut at {end}");
        }
        let mut body = Body::default();
        body.string("/job/1");
        assert_eq!(find_reply(&bytes, 1), Ok(Some(Reply::Return(body.0))));
    }

    #[test]
    fn the_path_of_a_unit_is_written_as_systemd_writes_it() {
        let path = unit_path("gapless@my-7.service");
        let expected = "/org/freedesktop/systemd1/unit/gapless_40my_2d7_2eservice";
        assert_eq!(path, expected);
        assert!(unit_path("7.service").ends_with("/_37_2eservice"));
    }

    #[test]
    fn a_refusal_carries_its_text() {
        let bytes = stream(&[answer(ERROR, 1, "Access denied")]);
        let expected = Reply::Error("Access denied".into());
        assert_eq!(find_reply(&bytes, 1), Ok(Some(expected)));
        assert_eq!(find_reply(b"REJECTED EXTERNAL\r\n", 1), Err(NotDbus));
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let foreign = stream(std::slice::from_ref(&bytes));
            prop_assert!(find_reply(&foreign, 1).is_ok() || find_reply(&foreign, 1).is_err());
            let mut damaged = stream(&[answer(ERROR, 1, "text")]);
            for (place, byte) in damaged.iter_mut().skip(21).zip(bytes) {
                *place ^= byte;
            }
            prop_assert!(find_reply(&damaged, 1).is_ok() || find_reply(&damaged, 1).is_err());
        }
    }
}
