//! The 512-byte tar header and the pax records beside it, to bytes and back.

use crate::error::{Error, Result};

/// Everything in a tar comes in blocks of this size (POSIX.1-2001, pax, "ustar Interchange Format").
pub(super) const BLOCK_BYTES: usize = 512;

/// One block.
pub(super) type Block = [u8; BLOCK_BYTES];

/// The largest content size that eleven octal digits hold: 8 GiB − 1.
const USTAR_SIZE_MAX: u64 = 0o777_7777_7777;
/// The largest user or group id that seven octal digits hold.
const USTAR_ID_MAX: u32 = 0o777_7777;
/// Lengths of the name and link name fields.
const USTAR_NAME_BYTES: usize = 100;

/// Owner, permissions and time of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits; anything above 0o7777 is left out.
    pub mode: u32,
    /// Numeric owner; names are not stored.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Last modification, whole seconds since 1970-01-01 UTC.
    pub mtime: i64,
}

/// What goes into a header.
pub(super) struct Member<'a> {
    pub(super) type_flag: u8,
    pub(super) name: &'a [u8],
    pub(super) link: &'a [u8],
    pub(super) attributes: Attributes,
    pub(super) size_bytes: u64,
}

impl Member<'_> {
    /// Appends the header, preceded by an extended one when ustar's fields are too small or a name is not ASCII.
    pub(super) fn append_to(&self, output: &mut Vec<u8>) {
        let records = self.extended_records();
        if !records.is_empty() {
            let attributes = Attributes { mode: 0o644, uid: 0, gid: 0, mtime: 0 };
            let size_bytes = records.len() as u64;
            let extended = Member { type_flag: b'x', name: b"././@PaxHeader", link: b"", attributes, size_bytes };
            output.extend_from_slice(&extended.ustar());
            output.extend_from_slice(&records);
            output.resize(output.len() + padding(size_bytes), 0);
        }
        output.extend_from_slice(&self.ustar());
    }

    fn extended_records(&self) -> Vec<u8> {
        let mut records = Vec::new();
        let Attributes { uid, gid, mtime, .. } = self.attributes;
        let names = [(&b"path"[..], self.name), (b"linkpath", self.link)];
        let wanted = names.into_iter().filter(|(_, name)| !name.is_ascii() || name.len() > USTAR_NAME_BYTES);
        // Bytes that are not UTF-8 go in as they are, as GNU tar writes them; it warns of `hdrcharset`, which pax has for them.
        for (key, name) in wanted {
            append_record(&mut records, key, name);
        }
        if self.size_bytes > USTAR_SIZE_MAX {
            append_record(&mut records, b"size", self.size_bytes.to_string().as_bytes());
        }
        for (key, id) in [(&b"uid"[..], uid), (b"gid", gid)] {
            if id > USTAR_ID_MAX {
                append_record(&mut records, key, id.to_string().as_bytes());
            }
        }
        if u64::try_from(mtime).map_or(true, |mtime| mtime > USTAR_SIZE_MAX) {
            append_record(&mut records, b"mtime", mtime.to_string().as_bytes());
        }
        records
    }

    /// Values that do not fit are cut or zero here: an extended header has them.
    fn ustar(&self) -> Block {
        let Attributes { mode, uid, gid, mtime } = self.attributes;
        let time = u64::try_from(mtime).unwrap_or(0);
        let mut block = [0; BLOCK_BYTES];
        put(&mut block[..100], self.name);
        put(&mut block[100..108], format!("{:07o}", mode & 0o7777).as_bytes());
        put(&mut block[108..116], format!("{:07o}", fitting(uid.into(), USTAR_ID_MAX.into())).as_bytes());
        put(&mut block[116..124], format!("{:07o}", fitting(gid.into(), USTAR_ID_MAX.into())).as_bytes());
        put(&mut block[124..136], format!("{:011o}", fitting(self.size_bytes, USTAR_SIZE_MAX)).as_bytes());
        put(&mut block[136..148], format!("{:011o}", fitting(time, USTAR_SIZE_MAX)).as_bytes());
        block[156] = self.type_flag;
        put(&mut block[157..257], self.link);
        put(&mut block[257..265], b"ustar\x0000");
        put(&mut block[329..337], b"0000000");
        put(&mut block[337..345], b"0000000");
        let (sum, _) = checksums(&block);
        put(&mut block[148..156], format!("{sum:06o}\0 ").as_bytes());
        block
    }
}

/// How many zero bytes follow a content of `size_bytes` to fill its last block.
pub(super) fn padding(size_bytes: u64) -> usize {
    let used = usize::try_from(size_bytes % BLOCK_BYTES as u64).unwrap_or(0);
    if used == 0 { 0 } else { BLOCK_BYTES - used }
}

fn fitting(value: u64, largest: u64) -> u64 {
    if value > largest { 0 } else { value }
}

fn put(field: &mut [u8], value: &[u8]) {
    for (to, from) in field.iter_mut().zip(value) {
        *to = *from;
    }
}

/// `<length> <key>=<value>\n`, where length counts all of itself.
fn append_record(output: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    output.extend_from_slice(length.to_string().as_bytes());
    output.push(b' ');
    output.extend_from_slice(key);
    output.push(b'=');
    output.extend_from_slice(value);
    output.push(b'\n');
}

/// The sum of all bytes with the checksum field read as spaces: unsigned, and signed as some old writers had it.
fn checksums(block: &Block) -> (i64, i64) {
    let summed = |at: usize, byte: u8| if (148..156).contains(&at) { b' ' } else { byte };
    block
        .iter()
        .enumerate()
        .map(|(at, byte)| summed(at, *byte))
        .fold((0, 0), |(plain, signed), byte| (plain + i64::from(byte), signed + i64::from(byte.cast_signed())))
}

/// A header as read: its checksum holds, its numbers are numbers; nothing more is known yet.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) type_flag: u8,
    pub(super) name: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) mode: i64,
    pub(super) uid: i64,
    pub(super) gid: i64,
    pub(super) size: i64,
    pub(super) mtime: i64,
}

impl Header {
    /// Reads ustar (with its name prefix), GNU and old (v7) headers. Errors: `Corrupt`.
    pub(super) fn parse(block: &Block) -> Result<Self> {
        let stored = number(&block[148..156], "checksum")?;
        let (plain, signed) = checksums(block);
        if stored != plain && stored != signed {
            return Err(Error::corrupt(format!("tar header has checksum {stored}, its bytes give {plain}")));
        }
        let mut name = text(&block[..100]).to_vec();
        let prefix = text(&block[345..500]);
        // GNU's "ustar  \0" keeps other things where POSIX has the prefix.
        if block[257..263] == *b"ustar\0" && !prefix.is_empty() {
            name = [prefix, b"/", &name].concat();
        }
        Ok(Self {
            type_flag: block[156],
            name,
            link: text(&block[157..257]).to_vec(),
            mode: number(&block[100..108], "mode")?,
            uid: number(&block[108..116], "owner")?,
            gid: number(&block[116..124], "group")?,
            size: number(&block[124..136], "size")?,
            mtime: number(&block[136..148], "time")?,
        })
    }
}

fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Octal digits, or GNU's base 256 marked by the highest bit. An empty field is 0.
fn number(field: &[u8], what: &str) -> Result<i64> {
    let refuse = || Error::corrupt(format!("tar header has a {what} that is no number: {}", shown(field)));
    if let Some((first, rest)) = field.split_first().filter(|(first, _)| **first >= 0x80) {
        let sign = if first & 0x40 == 0 { 0 } else { -1_i128 };
        let lead = (sign << 6) | i128::from(first & 0x3f);
        let value = rest.iter().fold(lead, |value, byte| (value << 8) | i128::from(*byte));
        return i64::try_from(value).map_err(|_| refuse());
    }
    let digits = field.trim_ascii_start().split(|byte| matches!(byte, 0 | b' ')).next().unwrap_or_default();
    digits.iter().try_fold(0, |value: i64, digit| match digit {
        b'0'..=b'7' => Ok((value << 3) | i64::from(digit - b'0')),
        _ => Err(refuse()),
    })
}

/// What the extended headers before a member said about it.
#[derive(Debug, Default)]
pub(super) struct Extended {
    pub(super) name: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<i64>,
    pub(super) uid: Option<i64>,
    pub(super) gid: Option<i64>,
    pub(super) mtime: Option<i64>,
}

impl Extended {
    /// Takes in the records of a pax header; later ones win, an empty value takes the earlier one back. Keys that change nothing
    /// for us are passed over; sparse files, whose content would have to be expanded, are refused. Errors: `Corrupt`.
    pub(super) fn take_records(&mut self, mut records: &[u8]) -> Result<()> {
        while !records.is_empty() {
            let (key, value, rest) = split_record(records).ok_or_else(|| {
                Error::corrupt(format!("tar extended header has a damaged record: {}", shown(records)))
            })?;
            let integer = || if value.is_empty() { Ok(None) } else { whole_number(key, value).map(Some) };
            match key {
                b"path" => self.name = Some(value.to_vec()).filter(|name| !name.is_empty()),
                b"linkpath" => self.link = Some(value.to_vec()).filter(|link| !link.is_empty()),
                b"size" => self.size = integer()?,
                b"uid" => self.uid = integer()?,
                b"gid" => self.gid = integer()?,
                b"mtime" => self.mtime = integer()?,
                _ if key.starts_with(b"GNU.sparse.") => {
                    return Err(Error::corrupt("tar member is stored as a sparse file, which backups do not use"));
                }
                _ => {}
            }
            records = rest;
        }
        Ok(())
    }

    /// True when nothing is said.
    pub(super) fn is_empty(&self) -> bool {
        let Self { name, link, size, uid, gid, mtime } = self;
        name.is_none() && link.is_none() && [size, uid, gid, mtime].into_iter().all(Option::is_none)
    }
}

/// Key, value, and what follows the record.
fn split_record(records: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = records.iter().take(20).position(|byte| *byte == b' ')?;
    let length: usize = str::from_utf8(records.get(..space)?).ok()?.parse().ok()?;
    let (record, rest) = records.split_at_checked(length)?;
    let body = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = body.iter().position(|byte| *byte == b'=')?;
    Some((body.get(..equals)?, body.get(equals + 1..)?, rest))
}

/// A decimal number, its fraction dropped towards the past: Barman's times are like `1795423097.0410607`.
fn whole_number(key: &[u8], value: &[u8]) -> Result<i64> {
    let parse = || {
        let text = str::from_utf8(value).ok()?;
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let digits = whole.strip_prefix('-').unwrap_or(whole);
        if digits.is_empty() || !digits.bytes().chain(fraction.bytes()).all(|digit| digit.is_ascii_digit()) {
            return None;
        }
        let before = whole.starts_with('-') && fraction.bytes().any(|digit| digit != b'0');
        whole.parse::<i64>().ok()?.checked_sub(i64::from(before))
    };
    parse().ok_or_else(|| {
        Error::corrupt(format!("tar extended header has a {} that is no number: {}", shown(key), shown(value)))
    })
}

/// Bytes from outside for an error message: quoted, escaped, not endless.
pub(super) fn shown(bytes: &[u8]) -> String {
    const SHOWN_BYTES: usize = 200;
    let start = String::from_utf8_lossy(bytes.get(..SHOWN_BYTES).unwrap_or(bytes));
    let more = if bytes.len() > SHOWN_BYTES { "…" } else { "" };
    format!("\"{}{more}\"", start.escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    const PLAIN: Attributes = Attributes { mode: 0o600, uid: 26, gid: 26, mtime: 1_795_423_097 };

    fn member(name: &[u8], attributes: Attributes, size_bytes: u64) -> Vec<u8> {
        let mut output = Vec::new();
        Member { type_flag: b'0', name, link: b"", attributes, size_bytes }.append_to(&mut output);
        output
    }

    #[test]
    fn an_ordinary_member_needs_one_block() {
        assert_eq!(member(&[b'a'; 100], PLAIN, USTAR_SIZE_MAX).len(), BLOCK_BYTES);
    }

    #[test]
    fn values_beyond_ustar_go_into_records() {
        let cases: [(&[u8], Attributes, u64, &[u8]); 7] = [
            (&[b'a'; 101], PLAIN, 0, &[&b"111 path="[..], &[b'a'; 101], b"\n"].concat()),
            ("é".as_bytes(), PLAIN, 0, "11 path=é\n".as_bytes()),
            (b"\xff", PLAIN, 0, b"9 path=\xff\n"),
            (b"a", PLAIN, USTAR_SIZE_MAX + 1, b"19 size=8589934592\n"),
            (b"a", Attributes { uid: u32::MAX, ..PLAIN }, 0, b"18 uid=4294967295\n"),
            (b"a", Attributes { gid: USTAR_ID_MAX + 1, ..PLAIN }, 0, b"15 gid=2097152\n"),
            (b"a", Attributes { mtime: -1, ..PLAIN }, 0, b"12 mtime=-1\n"),
        ];
        for (name, attributes, size, records) in cases {
            let bytes = member(name, attributes, size);
            assert_eq!(bytes.len(), 3 * BLOCK_BYTES, "{}", shown(name));
            assert_eq!(bytes[156], b'x');
            assert!(bytes[BLOCK_BYTES..].starts_with(records), "{}", shown(&bytes[BLOCK_BYTES..700]));
            assert_eq!(bytes[BLOCK_BYTES + records.len()], 0);
            let mut extended = Extended::default();
            extended.take_records(records).unwrap();
            assert!(!extended.is_empty());
            assert_eq!(extended.size, (size > 0).then_some(8_589_934_592));
        }
    }

    #[test]
    fn numbers_are_octal_or_base_256() {
        let cases: [(&[u8], i64); 8] = [
            (b"0000644\0", 0o644),
            (b"   644 \0", 0o644),
            (b"77777777", 0o7777_7777),
            (b"\0\0\0\0\0\0\0\0", 0),
            (b"        ", 0),
            (b"\x80\0\0\0\0\0\0\x05", 5),
            (b"\x80\0\0\0\0\0\0\0\x02\0\0\0", 1 << 25),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfe", -2),
        ];
        for (field, value) in cases {
            assert_eq!(number(field, "size").unwrap(), value, "{}", shown(field));
        }
        for field in [&b"0000648\0"[..], b"-1\0\0\0\0\0\0", b"\xbf\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", b"abc"]
        {
            assert_eq!(number(field, "size").unwrap_err().kind(), ErrorKind::Corrupt);
        }
    }

    #[test]
    fn damaged_records_are_refused() {
        for records in [
            &b"x"[..],
            b"10 path=a",
            b"0 path=a\n",
            b"3 a\n",
            b"99 path=a\n",
            b"9 path:a\n",
            b"-9 path=a\n",
            b"18446744073709551616 path=a\n",
            b"10 size=a\n",
            b"11 mtime=-\n",
            b"29 mtime=99999999999999999999\n",
            b"22 GNU.sparse.major=1\n",
        ] {
            let refused = Extended::default().take_records(records);
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::Corrupt, "{}", shown(records));
        }
    }

    #[test]
    fn fractions_of_seconds_are_dropped_towards_the_past() {
        for (text, seconds) in
            [("1795423097.0410607", 1_795_423_097), ("-1.5", -2), ("-1.0", -1), ("-0.5", -1), ("7", 7)]
        {
            assert_eq!(whole_number(b"mtime", text.as_bytes()).unwrap(), seconds, "{text}");
        }
    }
}
