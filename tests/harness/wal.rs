//! WAL files made up for a test: right headers, any size, content that compresses or does not.

/// The cluster that made-up segments come from.
pub const SYSTEM_IDENTIFIER: u64 = 7_711_281_960_404_649_938;

/// What lies behind the header of a made-up segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filling {
    /// Records that resemble one another, then zeroes: as WAL mostly is.
    Compressible,
    /// Noise to the last byte, which no codec makes shorter.
    Noise,
}

/// The segment `name` (24 digits) of `megabytes`; `seed` tells two of the same name apart.
///
/// The header is that of PostgreSQL 15 on a little-endian machine (`XLogLongPageHeaderData`).
pub fn segment(name: &str, megabytes: u64, filling: Filling, seed: u64) -> Vec<u8> {
    segment_of(SYSTEM_IDENTIFIER, name, megabytes, filling, seed)
}

/// The same, written by the cluster with this system identifier.
pub fn segment_of(system_identifier: u64, name: &str, megabytes: u64, filling: Filling, seed: u64) -> Vec<u8> {
    let field = |at: usize| u64::from_str_radix(&name[at..at + 8], 16).unwrap();
    let (timeline, log, number) = (field(0), field(8), field(16));
    let size = megabytes << 20;
    let start = (log << 32) + number * size;
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap());
    bytes.extend(0xD110_u16.to_le_bytes());
    bytes.extend(2_u16.to_le_bytes());
    bytes.extend(u32::try_from(timeline).unwrap().to_le_bytes());
    bytes.extend(start.to_le_bytes());
    bytes.extend(0_u64.to_le_bytes());
    bytes.extend(system_identifier.to_le_bytes());
    bytes.extend(u32::try_from(size).unwrap().to_le_bytes());
    bytes.extend(8192_u32.to_le_bytes());
    let mut noise = Noise(seed.wrapping_add(start) | 1);
    match filling {
        Filling::Noise => {
            while (bytes.len() as u64) < size {
                bytes.extend(noise.next().to_le_bytes());
            }
        }
        Filling::Compressible => {
            while (bytes.len() as u64) < size / 2 {
                bytes.extend_from_slice(b"\x40\x00\x00\x00 a heap record of some length ");
                bytes.extend(noise.next().to_le_bytes());
            }
        }
    }
    bytes.resize(usize::try_from(size).unwrap(), 0);
    bytes
}

/// Marsaglia's xorshift64: the same noise in every run.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
