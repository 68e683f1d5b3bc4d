//! The digest by which the strict client and the probe app check every body: FNV-1a, 64 bits.
//!
//! Start with [`OFFSET`]; for each byte: xor it in, then multiply by 0x100000001b3 (wrapping).
//! Written as 16 hex digits. It finds a byte lost, doubled or swapped; it is no cryptography.

/// Of the empty body.
pub const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

/// The digest of what `digest` stands for followed by `bytes`.
pub fn add(digest: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(digest, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// As it stands in headers and last lines.
pub fn text(digest: u64) -> String {
    format!("{digest:016x}")
}
