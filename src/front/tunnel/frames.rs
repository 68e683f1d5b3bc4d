//! Where the frames of a WebSocket begin and end: RFC 6455 section 5.2. Headers are read, payload is
//! skipped; nothing is kept, and nothing is judged.

/// The opcode of a close frame.
const CLOSE: u8 = 8;

/// A position in a stream of frames.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::front) struct Frames {
    at: At,
    has_closed: bool,
}

#[derive(Clone, Copy, Debug, Default)]
enum At {
    /// Before the first byte of a frame.
    #[default]
    Boundary,
    /// Before the byte with the length.
    Length,
    /// In the two or eight bytes of a longer length.
    LongLength {
        bytes_left: u8,
        length: u64,
        mask_bytes: u64,
    },
    /// In the mask, if any, and the payload.
    Payload { bytes_left: u64 },
}

impl Frames {
    pub(in crate::front) fn is_at_boundary(&self) -> bool {
        matches!(self.at, At::Boundary)
    }

    /// A close frame has begun: no other may follow.
    pub(in crate::front) fn has_closed(&self) -> bool {
        self.has_closed
    }

    /// These go by.
    pub(in crate::front) fn pass(&mut self, mut bytes: &[u8]) {
        while let Some(rest) = self.step(bytes) {
            bytes = rest;
        }
    }

    /// How many of `bytes` belong to the frame that has begun: none at a boundary.
    pub(in crate::front) fn until_boundary(mut self, bytes: &[u8]) -> usize {
        let mut left = bytes;
        while !self.is_at_boundary() {
            match self.step(left) {
                Some(rest) => left = rest,
                None => break,
            }
        }
        bytes.len().saturating_sub(left.len())
    }

    /// Over the next byte, or a piece of payload; what comes after it.
    fn step<'b>(&mut self, bytes: &'b [u8]) -> Option<&'b [u8]> {
        let (&byte, rest) = bytes.split_first()?;
        match self.at {
            At::Boundary => {
                self.has_closed |= byte & 0x0f == CLOSE;
                self.at = At::Length;
            }
            At::Length => {
                let mask_bytes = if byte & 0x80 == 0 { 0 } else { 4 };
                self.at = match byte & 0x7f {
                    126 => long(2, mask_bytes),
                    127 => long(8, mask_bytes),
                    length => payload(u64::from(length).saturating_add(mask_bytes)),
                };
            }
            At::LongLength {
                bytes_left,
                length,
                mask_bytes,
            } => {
                let length = length << 8 | u64::from(byte);
                self.at = match bytes_left.saturating_sub(1) {
                    0 => payload(length.saturating_add(mask_bytes)),
                    bytes_left => At::LongLength {
                        bytes_left,
                        length,
                        mask_bytes,
                    },
                };
            }
            At::Payload { bytes_left } => {
                let here = usize::try_from(bytes_left).unwrap_or(usize::MAX);
                let (skipped, rest) = bytes.split_at(here.min(bytes.len()));
                let skipped = u64::try_from(skipped.len()).unwrap_or(u64::MAX);
                self.at = payload(bytes_left.saturating_sub(skipped));
                return Some(rest);
            }
        }
        Some(rest)
    }
}

fn long(bytes_left: u8, mask_bytes: u64) -> At {
    At::LongLength {
        bytes_left,
        length: 0,
        mask_bytes,
    }
}

fn payload(bytes_left: u64) -> At {
    match bytes_left {
        0 => At::Boundary,
        bytes_left => At::Payload { bytes_left },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(opcode: u8, length: usize, is_masked: bool) -> Vec<u8> {
        let mask = if is_masked { 0x80 } else { 0 };
        let mut frame = vec![0x80 | opcode];
        match length {
            0..126 => frame.push(mask | u8::try_from(length).unwrap()),
            126..65_536 => {
                frame.push(mask | 0x7e);
                frame.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
            _ => {
                frame.push(mask | 0x7f);
                frame.extend(u64::try_from(length).unwrap().to_be_bytes());
            }
        }
        if is_masked {
            frame.extend([1, 2, 3, 4]);
        }
        frame.extend(std::iter::repeat_n(0x88, length));
        frame
    }

    #[test]
    fn a_close_frame_is_seen_and_payload_is_not_taken_for_one() {
        let mut frames = Frames::default();
        frames.pass(&frame(1, 300, false));
        assert!(frames.is_at_boundary() && !frames.has_closed());
        frames.pass(&frame(8, 2, false));
        assert!(frames.is_at_boundary() && frames.has_closed());
    }

    proptest! {
        #[test]
        fn every_boundary_is_found_however_the_bytes_come(
            lengths in prop::collection::vec(prop_oneof![0..130_usize, 65_530..65_540_usize], 1..5),
            is_masked: bool,
            cuts in prop::collection::vec(1..70_000_usize, 1..8),
        ) {
            let stream: Vec<u8> = lengths.iter().flat_map(|length| frame(2, *length, is_masked)).collect();
            let mut boundaries = vec![0];
            for length in &lengths {
                boundaries.push(boundaries.last().unwrap() + frame(2, *length, is_masked).len());
            }
            let (mut frames, mut at) = (Frames::default(), 0);
            let mut cuts = cuts.iter().cycle();
            while at < stream.len() {
                let next = boundaries.iter().find(|boundary| **boundary >= at).unwrap();
                prop_assert_eq!(frames.until_boundary(&stream[at..]), next - at);
                let end = stream.len().min(at + cuts.next().unwrap());
                frames.pass(&stream[at..end]);
                at = end;
                prop_assert_eq!(frames.is_at_boundary(), boundaries.contains(&at));
            }
        }

        #[test]
        fn nonsense_harms_nobody(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut frames = Frames::default();
            prop_assert_eq!(frames.until_boundary(&bytes), 0);
            frames.pass(&bytes);
            prop_assert!(frames.until_boundary(&bytes) <= bytes.len());
        }
    }
}
