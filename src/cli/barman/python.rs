//! How Python 3.11 reads numbers and shows strings: Barman 3.19.1 is written in it, and scripts see the results.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

/// Python refuses to read more digits than this as one number.
const MAX_DIGITS: usize = 4300;

/// The zeros of Unicode's decimal digits beyond ASCII; one to nine follow each. Python's `unicodedata` of Unicode 14.
const ZEROS: [u32; 65] = [
    0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66, 0xde6, 0xe50, 0xed0, 0xf20,
    0x1040, 0x1090, 0x17e0, 0x1810, 0x1946, 0x19d0, 0x1a80, 0x1a90, 0x1b50, 0x1bb0, 0x1c40, 0x1c50, 0xa620, 0xa8d0,
    0xa900, 0xa9d0, 0xa9f0, 0xaa50, 0xabf0, 0xff10, 0x1_04a0, 0x1_0d30, 0x1_1066, 0x1_10f0, 0x1_1136, 0x1_11d0,
    0x1_12f0, 0x1_1450, 0x1_14d0, 0x1_1650, 0x1_16c0, 0x1_1730, 0x1_18e0, 0x1_1950, 0x1_1c50, 0x1_1d50, 0x1_1da0,
    0x1_6a60, 0x1_6ac0, 0x1_6b50, 0x1_d7ce, 0x1_d7d8, 0x1_d7e2, 0x1_d7ec, 0x1_d7f6, 0x1_e140, 0x1_e2f0, 0x1_e950,
    0x1_fbf0,
];

/// What `repr` shows for a word of a command line; a byte that is no UTF-8 shows as `\udcXX`.
pub(super) fn repr(word: &OsStr) -> String {
    let bytes = word.as_bytes();
    let quote = if bytes.contains(&b'\'') && !bytes.contains(&b'"') { '"' } else { '\'' };
    let mut shown = String::from(quote);
    for chunk in bytes.utf8_chunks() {
        chunk.valid().chars().for_each(|c| show_char(&mut shown, c, quote));
        chunk.invalid().iter().for_each(|byte| show_byte(&mut shown, *byte));
    }
    shown.push(quote);
    shown
}

/// A word as Python prints it on stderr; a byte that is no UTF-8 shows as `\udcXX`.
pub(super) fn printed(word: &OsStr) -> String {
    let mut shown = String::new();
    for chunk in word.as_bytes().utf8_chunks() {
        shown.push_str(chunk.valid());
        chunk.invalid().iter().for_each(|byte| show_byte(&mut shown, *byte));
    }
    shown
}

fn show_byte(shown: &mut String, byte: u8) {
    write!(shown, "\\udc{byte:02x}").expect("a string takes what is written");
}

fn show_char(shown: &mut String, c: char, quote: char) {
    let code = u32::from(c);
    let written = match c {
        '\n' => write!(shown, "\\n"),
        '\r' => write!(shown, "\\r"),
        '\t' => write!(shown, "\\t"),
        '\\' => write!(shown, "\\\\"),
        _ if c == quote => write!(shown, "\\{c}"),
        ' '..='~' => write!(shown, "{c}"),
        _ if is_printable(c) => write!(shown, "{c}"),
        _ if code <= 0xff => write!(shown, "\\x{code:02x}"),
        _ if code <= 0xffff => write!(shown, "\\u{code:04x}"),
        _ => write!(shown, "\\U{code:08x}"),
    };
    written.expect("a string takes what is written");
}

/// Rust escapes what Python calls unprintable, and a combining mark at the beginning of a string; hence the letter.
fn is_printable(c: char) -> bool {
    let mut after_a_letter = String::from('a');
    after_a_letter.push(c);
    after_a_letter.escape_debug().eq(after_a_letter.chars())
}

/// `str.upper`.
pub(super) fn upper(word: &OsStr) -> OsString {
    let mut bytes = Vec::with_capacity(word.len());
    for chunk in word.as_bytes().utf8_chunks() {
        bytes.extend_from_slice(chunk.valid().to_uppercase().as_bytes());
        bytes.extend_from_slice(chunk.invalid());
    }
    OsString::from_vec(bytes)
}

/// `str.isspace` of one character.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// `int(text)`: white space around, a sign, digits of any script, single underscores between digits. Beyond 64 bits it
/// is the nearest number of 64 bits. None where Python raises `ValueError`.
pub(super) fn int(text: &str) -> Option<i64> {
    let plain = plain_number(text)?;
    let (negative, digits) = match plain.as_bytes().first()? {
        b'-' => (true, &plain[1..]),
        b'+' => (false, &plain[1..]),
        _ => (false, plain.as_str()),
    };
    if digits.is_empty() || digits.len() > MAX_DIGITS || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number = digits.bytes().fold(0_i64, |sum, byte| {
        let digit = i64::from(byte - b'0');
        let ten = sum.saturating_mul(10);
        if negative { ten.saturating_sub(digit) } else { ten.saturating_add(digit) }
    });
    Some(number)
}

/// `float(text)`: as [`int`], with a fraction and an exponent, and the words `inf` and `nan`. None where Python raises
/// `ValueError`.
pub(super) fn float(text: &str) -> Option<f64> {
    plain_number(text)?.parse().ok()
}

/// ASCII digits for those of any script, without white space around and without the underscores between digits.
fn plain_number(text: &str) -> Option<String> {
    let digits: String = text.trim().chars().map(|c| decimal_digit(c).unwrap_or(c)).collect();
    let bytes = digits.as_bytes();
    let between_digits = |at: usize| {
        let is_digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
        at > 0 && is_digit(at - 1) && is_digit(at + 1)
    };
    let lonely = bytes.iter().enumerate().any(|(at, byte)| *byte == b'_' && !between_digits(at));
    (!lonely).then(|| digits.replace('_', ""))
}

/// `٣` as `3`.
fn decimal_digit(c: char) -> Option<char> {
    let digit = decimal(c)?;
    char::from_digit(digit, 10)
}

/// The value of a decimal digit of any script: what `\d` matches.
pub(super) fn decimal(c: char) -> Option<u32> {
    if c.is_ascii() {
        return c.to_digit(10);
    }
    let code = u32::from(c);
    let zero = ZEROS[..ZEROS.partition_point(|zero| *zero <= code)].last()?;
    (code - zero < 10).then_some(code - zero)
}
