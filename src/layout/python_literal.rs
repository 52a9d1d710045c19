//! The small part of Python's literal syntax that `backup.info` needs.

use std::fmt;

use crate::error::{Error, Result};

/// How many lists, tuples and dicts may lie inside one another; Barman 3.19.1 writes at most four.
const MAX_DEPTH: usize = 16;
/// How long a literal may be, in bytes: as long as the longest `backup.info` that is read.
const MAX_BYTES: usize = 1 << 20;
/// How much of a literal an error shows, in characters.
const SHOWN_CHARS: usize = 60;

/// A value as `ast.literal_eval` of Python 3 would give it. `Display` writes what Python's `repr` writes.
#[derive(Debug, Clone, PartialEq)]
pub enum Literal {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// A whole number of at most 64 bits.
    Int(i64),
    /// A number with a fraction or an exponent. Not finite, it is written as `None`: Python has no literal for it.
    Float(f64),
    /// A string.
    Str(String),
    /// `[…]`.
    List(Vec<Literal>),
    /// `(…)`.
    Tuple(Vec<Literal>),
    /// `{key: value, …}` in the order written.
    Dict(Vec<(Literal, Literal)>),
}

impl Literal {
    /// Reads one literal; white space around it is skipped.
    ///
    /// Reads strings of either quote (with or without `u`), whole and decimal numbers, `None`, `True`, `False`, lists,
    /// tuples and dicts; no sets, bytes, complex numbers or triple quotes. Limits: 16 levels, 1 MiB, 64-bit numbers.
    ///
    /// Errors: `Corrupt` for anything else.
    pub fn parse(text: &str) -> Result<Self> {
        let refuse = |why: &str| {
            let shown: String = text.chars().take(SHOWN_CHARS).collect();
            Error::corrupt(format!("could not read Python literal \"{}\": {why}", shown.escape_debug()))
        };
        if text.len() > MAX_BYTES {
            return Err(refuse("it is longer than 1 MiB"));
        }
        let mut reader = Reader { rest: text };
        let literal = reader.value(0).map_err(refuse)?;
        reader.skip_space();
        if reader.rest.is_empty() { Ok(literal) } else { Err(refuse("something follows the value")) }
    }

    /// The value of `key` in a dict; as in Python the last one wins. None when this is no dict.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Self> {
        let Self::Dict(pairs) = self else { return None };
        pairs.iter().rev().find(|(name, _)| matches!(name, Self::Str(text) if text == key)).map(|(_, value)| value)
    }
}

impl fmt::Display for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Bool(true) => f.write_str("True"),
            Self::Bool(false) => f.write_str("False"),
            Self::Int(number) => write!(f, "{number}"),
            Self::Float(number) => write_float(f, *number),
            Self::Str(text) => write_str(f, text),
            Self::List(items) => {
                f.write_str("[")?;
                write_items(f, items)?;
                f.write_str("]")
            }
            Self::Tuple(items) => {
                f.write_str("(")?;
                write_items(f, items)?;
                f.write_str(if items.len() == 1 { ",)" } else { ")" })
            }
            Self::Dict(pairs) => {
                f.write_str("{")?;
                for (at, (key, value)) in pairs.iter().enumerate() {
                    let comma = if at == 0 { "" } else { ", " };
                    write!(f, "{comma}{key}: {value}")?;
                }
                f.write_str("}")
            }
        }
    }
}

fn write_items(f: &mut fmt::Formatter<'_>, items: &[Literal]) -> fmt::Result {
    for (at, item) in items.iter().enumerate() {
        let comma = if at == 0 { "" } else { ", " };
        write!(f, "{comma}{item}")?;
    }
    Ok(())
}

/// Both languages write the shortest digits that read back, and change to an exponent at the same sizes; Python
/// gives the exponent a sign and two digits.
fn write_float(f: &mut fmt::Formatter<'_>, number: f64) -> fmt::Result {
    if !number.is_finite() {
        return f.write_str("None");
    }
    let text = format!("{number:?}");
    match text.split_once('e') {
        None => f.write_str(&text),
        Some((mantissa, exponent)) => {
            let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
            write!(f, "{mantissa}e{sign}{digits:0>2}")
        }
    }
}

fn write_str(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    write!(f, "{quote}")?;
    for letter in text.chars() {
        match letter {
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            '\t' => f.write_str("\\t")?,
            '\\' => f.write_str("\\\\")?,
            _ if letter == quote => write!(f, "\\{letter}")?,
            _ if is_printable(letter) => write!(f, "{letter}")?,
            '\0'..='\u{FF}' => write!(f, "\\x{:02x}", u32::from(letter))?,
            '\u{100}'..='\u{FFFF}' => write!(f, "\\u{:04x}", u32::from(letter))?,
            _ => write!(f, "\\U{:08x}", u32::from(letter))?,
        }
    }
    write!(f, "{quote}")
}

/// Python's `str.isprintable`: no control, format, private, unassigned or separating character but the space.
///
/// Rust's `escape_debug` goes by the same Unicode categories; the letter before keeps it from escaping a mere accent.
fn is_printable(letter: char) -> bool {
    match letter {
        ' '..='~' => true,
        '\0'..='\u{A0}' => false,
        _ => !format!("a{letter}").escape_debug().to_string().contains('\\'),
    }
}

/// What is still to be read. Errors are the reason alone; the caller knows the whole text.
struct Reader<'t> {
    rest: &'t str,
}

type Read<T> = std::result::Result<T, &'static str>;

impl<'t> Reader<'t> {
    fn value(&mut self, depth: usize) -> Read<Literal> {
        if depth > MAX_DEPTH {
            return Err("it is nested too deep");
        }
        self.skip_space();
        match self.peek().ok_or("a value is missing")? {
            '[' => Ok(Literal::List(self.items('[', ']', depth)?.0)),
            '(' => match self.items('(', ')', depth)? {
                (mut items, false) if items.len() == 1 => Ok(items.pop().unwrap_or(Literal::None)),
                (items, _) => Ok(Literal::Tuple(items)),
            },
            '{' => self.dict(depth),
            '\'' | '"' => self.string().map(Literal::Str),
            '0'..='9' | '+' | '-' | '.' => self.number(),
            _ => self.word(),
        }
    }

    /// The items between two brackets, and whether a comma follows the last.
    fn items(&mut self, open: char, close: char, depth: usize) -> Read<(Vec<Literal>, bool)> {
        let mut items = Vec::new();
        let mut comma = true;
        self.expect(open)?;
        loop {
            self.skip_space();
            if self.accept(close) {
                return Ok((items, comma));
            }
            if !comma {
                return Err("a comma is missing");
            }
            items.push(self.value(depth + 1)?);
            self.skip_space();
            comma = self.accept(',');
        }
    }

    fn dict(&mut self, depth: usize) -> Read<Literal> {
        let mut pairs = Vec::new();
        let mut comma = true;
        self.expect('{')?;
        loop {
            self.skip_space();
            if self.accept('}') {
                return Ok(Literal::Dict(pairs));
            }
            if !comma {
                return Err("a comma is missing");
            }
            let key = self.value(depth + 1)?;
            self.skip_space();
            self.expect(':')?;
            pairs.push((key, self.value(depth + 1)?));
            self.skip_space();
            comma = self.accept(',');
        }
    }

    fn string(&mut self) -> Read<String> {
        let quote = self.next().ok_or("a string is missing")?;
        let mut text = String::new();
        loop {
            match self.next().ok_or("a string does not end")? {
                '\n' => return Err("a string does not end on its line"),
                '\\' => self.escape(&mut text)?,
                letter if letter == quote => return Ok(text),
                letter => text.push(letter),
            }
        }
    }

    /// What follows a backslash (Python reference, 2.4.1); as there, an unknown escape stands for itself.
    fn escape(&mut self, text: &mut String) -> Read<()> {
        let letter = self.next().ok_or("a string does not end")?;
        let plain = match letter {
            '\n' => return Ok(()),
            '\\' | '\'' | '"' => letter,
            'a' => '\u{7}',
            'b' => '\u{8}',
            'f' => '\u{C}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\u{B}',
            '0'..='7' => self.octal(letter)?,
            'x' => self.hexadecimal(2)?,
            'u' => self.hexadecimal(4)?,
            'U' => self.hexadecimal(8)?,
            'N' => return Err("a character is given by name"),
            _ => {
                text.push('\\');
                letter
            }
        };
        text.push(plain);
        Ok(())
    }

    fn hexadecimal(&mut self, digits: usize) -> Read<char> {
        let mut code = 0;
        for _ in 0..digits {
            let digit = self.next().and_then(|letter| letter.to_digit(16)).ok_or("an escape is cut short")?;
            code = code << 4 | digit;
        }
        char::from_u32(code).ok_or("an escape is no character")
    }

    fn octal(&mut self, first: char) -> Read<char> {
        let mut code = first.to_digit(8).ok_or("an escape is cut short")?;
        for _ in 0..2 {
            let Some(digit) = self.peek().and_then(|letter| letter.to_digit(8)) else { break };
            self.next();
            code = code << 3 | digit;
        }
        char::from_u32(code).ok_or("an escape is no character")
    }

    fn number(&mut self) -> Read<Literal> {
        let text = self.take_while(|letter| matches!(letter, '0'..='9' | '+' | '-' | '.' | 'e' | 'E'));
        if text.contains(['.', 'e', 'E']) {
            let number: f64 = text.parse().map_err(|_| "a number cannot be read")?;
            return if number.is_finite() { Ok(Literal::Float(number)) } else { Err("a number is too large") };
        }
        text.parse().map(Literal::Int).map_err(|_| "a number cannot be read or is too large")
    }

    fn word(&mut self) -> Read<Literal> {
        match self.take_while(|letter| letter.is_alphanumeric() || letter == '_') {
            "None" => Ok(Literal::None),
            "True" => Ok(Literal::Bool(true)),
            "False" => Ok(Literal::Bool(false)),
            "u" | "U" if matches!(self.peek(), Some('\'' | '"')) => self.string().map(Literal::Str),
            _ => Err("it has something other than a literal in it"),
        }
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let mut letters = self.rest.chars();
        let letter = letters.next();
        self.rest = letters.as_str();
        letter
    }

    fn accept(&mut self, letter: char) -> bool {
        let rest = self.rest.strip_prefix(letter);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn expect(&mut self, letter: char) -> Read<()> {
        if self.accept(letter) { Ok(()) } else { Err("a bracket or colon is missing") }
    }

    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &'t str {
        let rest = self.rest.trim_start_matches(wanted);
        let taken = self.rest.strip_suffix(rest).unwrap_or("");
        self.rest = rest;
        taken
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::ErrorKind;

    fn text(text: &str) -> Literal {
        Literal::Str(text.to_owned())
    }

    /// Values and what `repr` of Python 3.11 writes for them.
    fn written_by_python() -> Vec<(Literal, &'static str)> {
        let letters = "\0\u{1f} ~\u{7f}\u{80}\u{a0}é\u{ad}\u{300}\u{600}\u{2028}\u{e000}€\u{1f600}\u{10ffff}";
        vec![
            (Literal::None, "None"),
            (Literal::Bool(true), "True"),
            (Literal::Bool(false), "False"),
            (Literal::Int(-7), "-7"),
            (Literal::Float(0.0), "0.0"),
            (Literal::Float(2.488_638), "2.488638"),
            (Literal::Float(0.0001), "0.0001"),
            (Literal::Float(0.000_01), "1e-05"),
            (Literal::Float(1e15), "1000000000000000.0"),
            (Literal::Float(1.5e16), "1.5e+16"),
            (Literal::Float(-1e-300), "-1e-300"),
            (text("it's"), r#""it's""#),
            (text("\"it's\""), r#"'"it\'s"'"#),
            (text("a\nb\tc\rd\\"), r"'a\nb\tc\rd\\'"),
            (text(letters), "'\\x00\\x1f ~\\x7f\\x80\\xa0é\\xad\u{300}\\u0600\\u2028\\ue000€\u{1f600}\\U0010ffff'"),
            (Literal::List(vec![]), "[]"),
            (Literal::Tuple(vec![]), "()"),
            (Literal::Tuple(vec![Literal::Int(1)]), "(1,)"),
            (Literal::List(vec![Literal::Tuple(vec![text("ts1"), Literal::Int(16389)])]), "[('ts1', 16389)]"),
            (
                Literal::Dict(vec![(text("a"), Literal::Int(0)), (Literal::Int(1), Literal::Dict(vec![]))]),
                "{'a': 0, 1: {}}",
            ),
        ]
    }

    #[test]
    fn values_are_written_as_python_writes_them_and_read_back() {
        for (value, expected) in written_by_python() {
            assert_eq!(value.to_string(), expected);
            assert_eq!(Literal::parse(expected).unwrap(), value);
        }
    }

    #[test]
    fn other_spellings_python_reads_are_read() {
        for (spelling, value) in [
            (" ( 1 ) ", Literal::Int(1)),
            ("[1, 2, ]", Literal::List(vec![Literal::Int(1), Literal::Int(2)])),
            ("u'x'", text("x")),
            (
                r#""\101\x42\u0043\U00000044\'\"\q\
""#,
                text("ABCD'\"\\q"),
            ),
            (r"'\a\b\f\v\0'", text("\u{7}\u{8}\u{c}\u{b}\0")),
            ("+1.e3", Literal::Float(1000.0)),
            ("{'a': 1,}", Literal::Dict(vec![(text("a"), Literal::Int(1))])),
        ] {
            assert_eq!(Literal::parse(spelling).unwrap(), value, "{spelling}");
        }
    }

    #[test]
    fn what_is_no_literal_is_corrupt() {
        let deep = "[".repeat(MAX_DEPTH + 2);
        let hostile = "[".repeat(MAX_BYTES);
        let long = " ".repeat(MAX_BYTES) + "1";
        for wrong in [
            "",
            " ",
            "x",
            "none",
            "'",
            "'a",
            "'a\nb'",
            "[1 2]",
            "[,]",
            "[1",
            "(1",
            "{1}",
            "{1:}",
            "{1 2}",
            "1 2",
            "1_0",
            "--1",
            "1e999",
            "9223372036854775808",
            "'\\x4'",
            "'\\ud800'",
            "'\\N{DASH}'",
            "b'x'",
            "'a' 'b'",
            "inf",
            "__import__('os')",
            &deep,
            &hostile,
            &long,
        ] {
            assert_eq!(Literal::parse(wrong).unwrap_err().kind(), ErrorKind::Corrupt);
        }
    }

    #[test]
    fn numbers_without_a_literal_are_written_as_none() {
        assert_eq!(Literal::Float(f64::NAN).to_string(), "None");
        assert_eq!(Literal::Float(f64::NEG_INFINITY).to_string(), "None");
    }

    #[test]
    fn the_last_of_equal_keys_wins() {
        let dict = Literal::parse("{'a': 1, 'a': 2, 3: 4}").unwrap();
        assert_eq!(dict.get("a"), Some(&Literal::Int(2)));
        assert_eq!(dict.get("b"), None);
        assert_eq!(Literal::None.get("a"), None);
    }

    fn any_literal() -> impl Strategy<Value = Literal> {
        let leaf = prop_oneof![
            Just(Literal::None),
            any::<bool>().prop_map(Literal::Bool),
            any::<i64>().prop_map(Literal::Int),
            any::<f64>().prop_filter("finite", |number| number.is_finite()).prop_map(Literal::Float),
            any::<String>().prop_map(Literal::Str),
            "['\"\\\\a-c]{0,6}".prop_map(Literal::Str),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Literal::List),
                prop::collection::vec(inner.clone(), 0..4).prop_map(Literal::Tuple),
                prop::collection::vec((inner.clone(), inner), 0..4).prop_map(Literal::Dict),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(value in any_literal()) {
            prop_assert_eq!(Literal::parse(&value.to_string()).unwrap(), value);
        }

        #[test]
        fn hostile_text_does_no_harm(text: String, syntax in r#"[\[\](){}'",:\\xuN0-9eE. -]{0,60}"#) {
            let _ = Literal::parse(&text);
            let _ = Literal::parse(&syntax);
        }
    }
}
