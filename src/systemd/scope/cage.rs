//! What holds a unit in: its slice, limits and filters, as systemd has them, for a scope that is to
//! be held in the same way. Pure: no socket.
//!
//! systemd's answer to GetAll is an array of `{sv}`, and StartTransientUnit takes an array of
//! `(sv)`. Both lay out one entry in the same bytes, so an entry is passed on as it came: no value
//! is read, printed and parsed again.

use super::wire::{Body, NotDbus};

/// The cgroup properties of systemd.resource-control(5), by their names on the bus, up to systemd
/// 257. A systemd that does not know one does not tell it, either.
const NAMES: [&str; 56] = [
    "Slice",
    "CPUAccounting",
    "CPUWeight",
    "StartupCPUWeight",
    "CPUQuotaPerSecUSec",
    "CPUQuotaPeriodUSec",
    "AllowedCPUs",
    "StartupAllowedCPUs",
    "AllowedMemoryNodes",
    "StartupAllowedMemoryNodes",
    "MemoryAccounting",
    "MemoryMin",
    "MemoryLow",
    "StartupMemoryLow",
    "MemoryHigh",
    "StartupMemoryHigh",
    "MemoryMax",
    "StartupMemoryMax",
    "MemorySwapMax",
    "StartupMemorySwapMax",
    "MemoryZSwapMax",
    "StartupMemoryZSwapMax",
    "MemoryZSwapWriteback",
    "MemoryPressureWatch",
    "MemoryPressureThresholdUSec",
    "TasksAccounting",
    "TasksMax",
    "IOAccounting",
    "IOWeight",
    "StartupIOWeight",
    "IODeviceWeight",
    "IOReadBandwidthMax",
    "IOWriteBandwidthMax",
    "IOReadIOPSMax",
    "IOWriteIOPSMax",
    "IODeviceLatencyTargetUSec",
    "IPAccounting",
    "IPAddressAllow",
    "IPAddressDeny",
    "IPIngressFilterPath",
    "IPEgressFilterPath",
    "RestrictNetworkInterfaces",
    "SocketBindAllow",
    "SocketBindDeny",
    "NFTSet",
    "BPFProgram",
    "DevicePolicy",
    "DeviceAllow",
    "DisableControllers",
    "ManagedOOMSwap",
    "ManagedOOMMemoryPressure",
    "ManagedOOMMemoryPressureLimit",
    "ManagedOOMMemoryPressureDurationUSec",
    "ManagedOOMPreference",
    // Before systemd 256.
    "CPUShares",
    "MemoryLimit",
];

/// What is kept when systemd refuses the whole without naming what it does not like.
const CORE: [&str; 5] = [
    "Slice",
    "MemoryMax",
    "TasksMax",
    "IPAddressAllow",
    "IPAddressDeny",
];

/// How deep values may be nested. D-Bus allows 64, systemd's have two.
const DEPTH_MAX: u8 = 16;

/// The properties that hold a unit in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cage(Vec<Property>);

/// One `{sv}`, with its bytes as systemd sent them, from a multiple of 8 on.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Property {
    name: String,
    bytes: Vec<u8>,
}

impl Cage {
    /// From the body of an answer to GetAll: `a{sv}`.
    pub(super) fn read(body: &[u8]) -> Result<Self, NotDbus> {
        let reader = Reader { bytes: body };
        let (length, at) = reader.length(0)?;
        let mut at = at.next_multiple_of(8);
        let end = at.saturating_add(length);
        let body = body.get(..end).ok_or(NotDbus)?;
        let reader = Reader { bytes: body };
        let mut properties = Vec::new();
        while at < body.len() {
            let begin = at.next_multiple_of(8);
            let (name, after) = reader.text(begin)?;
            let (signature, value) = reader.signature(after)?;
            at = reader.end_of(signature, value, DEPTH_MAX)?;
            let is_set = reader.is_set(signature, value)?;
            if is_set && NAMES.iter().any(|known| known.as_bytes() == name) {
                properties.push(Property {
                    name: String::from_utf8_lossy(name).into_owned(),
                    bytes: body.get(begin..at).ok_or(NotDbus)?.to_owned(),
                });
            }
        }
        Ok(Self(properties))
    }

    pub(super) fn write(&self, properties: &mut Body) {
        for property in &self.0 {
            properties.entry(&property.bytes);
        }
    }

    /// Their names.
    pub fn names(&self) -> Vec<&str> {
        self.0
            .iter()
            .map(|property| property.name.as_str())
            .collect()
    }

    /// Less than this, after systemd refused it for `reason`: without the property that the reason
    /// names; else only the most important ones; else nothing. None: there was nothing left.
    #[must_use]
    pub fn less(&self, reason: &str) -> Option<Self> {
        if self.0.is_empty() {
            return None;
        }
        let is_word = |name: &str| {
            let mut words = reason.split(|letter: char| !letter.is_ascii_alphanumeric());
            words.any(|word| word == name)
        };
        let without = |is_dropped: &dyn Fn(&str) -> bool| {
            let kept = self.0.iter().filter(|property| !is_dropped(&property.name));
            let kept: Vec<Property> = kept.cloned().collect();
            (kept.len() < self.0.len()).then_some(Self(kept))
        };
        without(&is_word)
            .or_else(|| without(&|name| !CORE.contains(&name)))
            .or_else(|| Some(Self::default()))
    }
}

/// Where values begin and end. Offsets count from the body, which begins at a multiple of 8.
#[derive(Clone, Copy)]
struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A `u` that counts bytes, and where it ends.
    fn length(self, at: usize) -> Result<(usize, usize), NotDbus> {
        let at = at.next_multiple_of(4);
        let rest = self.bytes.get(at..).ok_or(NotDbus)?;
        let (length, _) = rest.split_first_chunk::<4>().ok_or(NotDbus)?;
        let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| NotDbus)?;
        if length > self.bytes.len() {
            return Err(NotDbus);
        }
        Ok((length, at.saturating_add(4)))
    }

    fn text(self, at: usize) -> Result<(&'a [u8], usize), NotDbus> {
        let (length, begin) = self.length(at)?;
        let end = begin.saturating_add(length);
        let text = self.bytes.get(begin..end).ok_or(NotDbus)?;
        Ok((text, end.saturating_add(1)))
    }

    fn signature(self, at: usize) -> Result<(&'a [u8], usize), NotDbus> {
        let length = usize::from(*self.bytes.get(at).ok_or(NotDbus)?);
        let begin = at.saturating_add(1);
        let end = begin.saturating_add(length);
        let signature = self.bytes.get(begin..end).ok_or(NotDbus)?;
        Ok((signature, end.saturating_add(1)))
    }

    /// An empty list says nothing: a scope begins with one.
    fn is_set(self, signature: &[u8], at: usize) -> Result<bool, NotDbus> {
        Ok(signature.first() != Some(&b'a') || self.length(at)?.0 > 0)
    }

    /// Where the values of `signature`, one after the other, end.
    fn end_of(self, signature: &[u8], at: usize, depth: u8) -> Result<usize, NotDbus> {
        let depth = depth.checked_sub(1).ok_or(NotDbus)?;
        let (mut at, mut rest) = (at, signature);
        while let Some((kind, _)) = rest.split_first() {
            let (one, next) = rest.split_at_checked(type_length(rest)?).ok_or(NotDbus)?;
            at = match kind {
                b'y' => at.saturating_add(1),
                b'n' | b'q' => at.next_multiple_of(2).saturating_add(2),
                b'b' | b'i' | b'u' | b'h' => at.next_multiple_of(4).saturating_add(4),
                b'x' | b't' | b'd' => at.next_multiple_of(8).saturating_add(8),
                b's' | b'o' => self.text(at)?.1,
                b'g' => self.signature(at)?.1,
                b'v' => {
                    let (inner, at) = self.signature(at)?;
                    self.end_of(inner, at, depth)?
                }
                b'a' => {
                    let (length, at) = self.length(at)?;
                    let element = one.get(1).ok_or(NotDbus)?;
                    at.next_multiple_of(alignment(*element))
                        .saturating_add(length)
                }
                b'(' => {
                    let inner = one.get(1..one.len().saturating_sub(1)).ok_or(NotDbus)?;
                    self.end_of(inner, at.next_multiple_of(8), depth)?
                }
                _ => return Err(NotDbus),
            };
            if at > self.bytes.len() {
                return Err(NotDbus);
            }
            rest = next;
        }
        Ok(at)
    }
}

fn alignment(kind: u8) -> usize {
    match kind {
        b'y' | b'g' | b'v' => 1,
        b'n' | b'q' => 2,
        b'x' | b't' | b'd' | b'(' | b'{' => 8,
        _ => 4,
    }
}

/// Of the first complete type of a signature: `a(st)` is one.
fn type_length(signature: &[u8]) -> Result<usize, NotDbus> {
    let mut open = 0_usize;
    for (at, kind) in signature.iter().enumerate() {
        match kind {
            b'a' => continue,
            b'(' | b'{' => open = open.saturating_add(1),
            b')' | b'}' => open = open.checked_sub(1).ok_or(NotDbus)?,
            _ => {}
        }
        if open == 0 {
            return Ok(at.saturating_add(1));
        }
    }
    Err(NotDbus)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As systemd answers: some of it is of no concern, some is empty.
    fn answer() -> Vec<u8> {
        let mut body = Body::default();
        body.array(8, |all| {
            all.property("Type", "s", |v| v.string("notify"));
            all.property("Slice", "s", |v| v.string("caged.slice"));
            all.property("ExecStart", "a(sasbttttuii)", |v| v.array(8, |_| {}));
            all.property("MemoryMax", "t", |v| v.u64(1 << 30));
            all.property("SystemCallFilter", "(bas)", |v| {
                v.struct_(|v| {
                    v.bool(true);
                    v.array(4, |names| names.string("read"));
                });
            });
            all.property("IPAddressDeny", "a(iayu)", |v| {
                v.array(8, |list| {
                    list.struct_(|v| {
                        v.u32(2);
                        v.array(1, |_| {});
                        v.u32(0);
                    });
                });
            });
            all.property("DeviceAllow", "a(ss)", |v| v.array(8, |_| {}));
            all.property("TasksMax", "t", |v| v.u64(u64::MAX));
        });
        body.bytes().to_owned()
    }

    #[test]
    fn what_holds_a_unit_in_is_passed_on_byte_for_byte() {
        let cage = Cage::read(&answer()).unwrap();
        assert_eq!(
            cage.names(),
            ["Slice", "MemoryMax", "IPAddressDeny", "TasksMax"]
        );
        let mut body = Body::default();
        body.array(8, |properties| {
            properties.property("Description", "s", |v| v.string("odd length"));
            cage.write(properties);
        });
        assert_eq!(Cage::read(body.bytes()).unwrap(), cage);
    }

    #[test]
    fn a_refused_property_is_left_out_then_all_but_the_most_important_then_all() {
        let cage = Cage::read(&answer()).unwrap();
        let less = cage.less("Cannot set property TasksMax, or unknown property.");
        let less = less.unwrap();
        assert_eq!(less.names(), ["Slice", "MemoryMax", "IPAddressDeny"]);
        // Nothing is left to leave out but everything.
        assert_eq!(less.less("Out of range"), Some(Cage::default()));
        assert_eq!(Cage::default().less("Out of range"), None);
    }

    #[test]
    fn every_refusal_leaves_less_so_that_tries_come_to_an_end() {
        let mut cage = Cage::read(&answer()).unwrap();
        for reason in ["MemoryMax= is out of range", "Invalid argument", "", "x"] {
            let Some(less) = cage.less(reason) else {
                return assert!(cage.names().is_empty());
            };
            assert!(less.names().len() < cage.names().len());
            cage = less;
        }
    }

    #[test]
    fn an_answer_that_is_cut_is_refused_wherever_it_is_cut() {
        let whole = answer();
        for end in 0..whole.len() {
            assert_eq!(Cage::read(&whole[..end]), Err(NotDbus), "cut at {end}");
        }
    }

    #[test]
    fn values_nested_without_end_are_refused() {
        for odd in [
            "((((((((((((((((((y))))))))))))))))))",
            "(",
            "a",
            ")",
            "{",
            "z",
        ] {
            let mut body = Body::default();
            body.array(8, |all| all.property("Slice", odd, |v| v.u64(0)));
            assert_eq!(Cage::read(body.bytes()), Err(NotDbus), "{odd}");
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_is_bounded_by_what_came(
            noise in proptest::collection::vec(any::<u8>(), 0..300),
            at in 0_usize..200,
        ) {
            drop(Cage::read(&noise));
            let mut damaged = answer();
            for (place, byte) in damaged.iter_mut().skip(at).zip(noise) {
                *place ^= byte;
            }
            if let Ok(cage) = Cage::read(&damaged) {
                let kept: usize = cage.0.iter().map(|property| property.bytes.len()).sum();
                prop_assert!(kept <= damaged.len());
            }
        }
    }
}
