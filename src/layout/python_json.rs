//! JSON as Python's `json.dumps` writes it: what scripts around Barman's `--format json` have seen so far, byte for byte.

use std::fmt::Write as _;

use crate::layout::python_literal::Literal;

/// Appends `text` as a JSON string. ASCII only, as Python writes by default: everything else becomes `\u` and four digits, beyond
/// the basic plane twice.
pub fn write_str(json: &mut String, text: &str) {
    json.push('"');
    for letter in text.chars() {
        match letter {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            '\n' => json.push_str("\\n"),
            '\r' => json.push_str("\\r"),
            '\t' => json.push_str("\\t"),
            '\u{8}' => json.push_str("\\b"),
            '\u{C}' => json.push_str("\\f"),
            ' '..='~' => json.push(letter),
            _ => {
                for unit in letter.encode_utf16(&mut [0; 2]) {
                    let _ = write!(json, "\\u{unit:04x}");
                }
            }
        }
    }
    json.push('"');
}

/// Appends a Python value: tuples as lists, keys of a dict as strings, of equal keys the last value in the first's place.
pub fn write_literal(json: &mut String, value: &Literal) {
    match value {
        Literal::None => json.push_str("null"),
        Literal::Bool(value) => json.push_str(if *value { "true" } else { "false" }),
        Literal::Str(text) => write_str(json, text),
        Literal::Int(_) | Literal::Float(_) => {
            let _ = write!(json, "{value}");
        }
        Literal::List(items) | Literal::Tuple(items) => {
            json.push('[');
            for (at, item) in items.iter().enumerate() {
                json.push_str(if at == 0 { "" } else { ", " });
                write_literal(json, item);
            }
            json.push(']');
        }
        Literal::Dict(pairs) => write_dict(json, pairs),
    }
}

fn write_dict(json: &mut String, pairs: &[(Literal, Literal)]) {
    let mut unique: Vec<(&Literal, &Literal)> = Vec::new();
    for (key, value) in pairs {
        match unique.iter_mut().find(|(there, _)| *there == key) {
            Some(pair) => pair.1 = value,
            None => unique.push((key, value)),
        }
    }
    json.push('{');
    for (at, (key, value)) in unique.into_iter().enumerate() {
        json.push_str(if at == 0 { "" } else { ", " });
        match key {
            Literal::Str(text) => write_str(json, text),
            other => {
                let mut word = String::new();
                write_literal(&mut word, other);
                write_str(json, &word);
            }
        }
        json.push_str(": ");
        write_literal(json, value);
    }
    json.push('}');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_as_python_3_11_writes_them() {
        for (literal, expected) in [
            ("None", "null"),
            ("[True, False, -7, 0.5, 1e-05, 1.5e+16]", "[true, false, -7, 0.5, 1e-05, 1.5e+16]"),
            ("('a', (1,), {})", r#"["a", [1], {}]"#),
            ("{'a': {1: 2, None: 3, True: 4, 1.5: 5}}", r#"{"a": {"1": 2, "null": 3, "true": 4, "1.5": 5}}"#),
            ("{'a': 1, 'b': 2, 'a': 3}", r#"{"a": 3, "b": 2}"#),
            (
                r#"'é"\\\n\t\r\x08\x0c/\x01\x7f\u2028\U0001f600'"#,
                r#""\u00e9\"\\\n\t\r\b\f/\u0001\u007f\u2028\ud83d\ude00""#,
            ),
        ] {
            let mut json = String::new();
            write_literal(&mut json, &Literal::parse(literal).unwrap());
            assert_eq!(json, expected);
        }
    }
}
