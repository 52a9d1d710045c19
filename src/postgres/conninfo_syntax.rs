//! The two ways to write a connection string: `keyword=value` pairs and URIs (libpq `fe-connect.c`).

use std::collections::BTreeMap;

use crate::error::{Error, Result};

/// Keywords and their values, as written; values may be empty.
pub(super) type Settings = BTreeMap<String, String>;

/// Reads a connection string: a URI, `keyword=value` pairs, or, with neither `=` nor a scheme, a database name.
///
/// Whether a keyword is known is not checked here. No message repeats a value: it could be a password.
pub(super) fn parse(text: &str) -> Result<Settings> {
    if let Some(rest) = text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://")) {
        uri(rest)
    } else if text.contains('=') {
        pairs(text)
    } else if text.trim().is_empty() {
        Ok(Settings::new())
    } else {
        Ok(Settings::from([("dbname".to_owned(), text.to_owned())]))
    }
}

/// Reads `keyword = 'va\'lue' …`; the last of several equal keywords counts.
fn pairs(text: &str) -> Result<Settings> {
    let mut settings = Settings::new();
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(char::is_ascii_whitespace).is_some() {}
        if chars.peek().is_none() {
            return Ok(settings);
        }
        let mut keyword = String::new();
        while let Some(c) = chars.next_if(|c| *c != '=' && !c.is_ascii_whitespace()) {
            keyword.push(c);
        }
        while chars.next_if(char::is_ascii_whitespace).is_some() {}
        if chars.next_if_eq(&'=').is_none() {
            let number = settings.len() + 1;
            return Err(refuse(&format!("word {number} has no \"=\" after it"))
                .with_hint("put single quotes around a value with blanks in it"));
        }
        while chars.next_if(char::is_ascii_whitespace).is_some() {}
        let value = pair_value(&mut chars)
            .ok_or_else(|| refuse(&format!("the quoted value of \"{}\" does not end", keyword.escape_debug())))?;
        settings.insert(keyword, value);
    }
}

/// A bare value up to white space, or a quoted one; a backslash takes the next character as it is.
fn pair_value(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<String> {
    let quoted = chars.next_if_eq(&'\'').is_some();
    let mut value = String::new();
    while let Some(c) = chars.next_if(|c| quoted || !c.is_ascii_whitespace()) {
        match c {
            '\'' if quoted => return Some(value),
            '\\' => value.extend(chars.next()),
            _ => value.push(c),
        }
    }
    (!quoted).then_some(value)
}

/// Reads what follows `postgresql://`: `[user[:password]@][host][:port][,…][/dbname][?keyword=value[&…]]`.
fn uri(rest: &str) -> Result<Settings> {
    let mut settings = Settings::new();
    let mut store = |keyword: &str, value: String| {
        if !value.is_empty() {
            settings.insert(keyword.to_owned(), value);
        }
    };
    let (userinfo, rest) = match rest.split_once('@') {
        Some((userinfo, rest)) if !userinfo.contains('/') => (userinfo, rest),
        _ => ("", rest),
    };
    let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
    store("user", decode(user)?);
    store("password", decode(password)?);

    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, dbname) = rest.split_once('/').unwrap_or((rest, ""));
    let mut hosts = Vec::new();
    let mut ports = Vec::new();
    for endpoint in authority.split(',') {
        let (host, port) = host_and_port(endpoint)?;
        hosts.push(decode(host)?);
        ports.push(decode(port)?);
    }
    store("host", hosts.join(","));
    if ports.iter().any(|port| !port.is_empty()) {
        store("port", ports.join(","));
    }
    store("dbname", decode(dbname)?);

    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (keyword, value) = match pair.split_once('=') {
            Some((keyword, value)) if !value.contains('=') => (decode(keyword)?, decode(value)?),
            _ => return Err(refuse("a parameter after \"?\" is not one keyword, \"=\" and one value")),
        };
        // libpq reads JDBC's way of asking for TLS too.
        if keyword == "ssl" && value == "true" {
            settings.insert("sslmode".to_owned(), "require".to_owned());
        } else {
            settings.insert(keyword, value);
        }
    }
    Ok(settings)
}

/// Splits `host:port` or `[IPv6]:port`; either part may be missing.
fn host_and_port(endpoint: &str) -> Result<(&str, &str)> {
    let Some(bracketed) = endpoint.strip_prefix('[') else {
        return Ok(endpoint.split_once(':').unwrap_or((endpoint, "")));
    };
    match bracketed.split_once(']') {
        Some((host, "")) if !host.is_empty() => Ok((host, "")),
        Some((host, port)) if !host.is_empty() && port.starts_with(':') => Ok((host, &port[1..])),
        _ => Err(refuse("an address in brackets is not of the form \"[address]\" or \"[address]:port\"")),
    }
}

/// Percent decoding; `+` stays a plus, as in libpq.
fn decode(text: &str) -> Result<String> {
    let invalid = || refuse("a percent sign is not followed by two hexadecimal digits other than 00");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
        match (digit(), digit()) {
            (Some(high), Some(low)) if high + low > 0 => bytes.extend(u8::try_from(high << 4 | low)),
            _ => return Err(invalid()),
        }
    }
    String::from_utf8(bytes).map_err(|_| refuse("its percent-encoded bytes are not UTF-8"))
}

fn refuse(why: &str) -> Error {
    Error::usage(format!("could not read the connection string: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(String, String)> {
        parse(text).unwrap().into_iter().collect()
    }

    fn expect(text: &str, pairs: &[(&str, &str)]) {
        let expected: Vec<_> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        assert_eq!(read(text), expected, "{text}");
    }

    #[test]
    fn pairs_follow_libpq_quoting() {
        expect("host=a port=1", &[("host", "a"), ("port", "1")]);
        expect("  host = a\tport\n=\n1 ", &[("host", "a"), ("port", "1")]);
        expect(r"password='it\'s \\ it' user=a\ b", &[("password", r"it's \ it"), ("user", "a b")]);
        expect("host='' user=x user=y", &[("host", ""), ("user", "y")]);
        expect("password=a'b", &[("password", "a'b")]);
        expect("host= user=x", &[("host", "user=x")]);
    }

    #[test]
    fn a_single_word_is_a_database() {
        expect("shop", &[("dbname", "shop")]);
        expect("", &[]);
        expect("  ", &[]);
    }

    #[test]
    fn uris_are_taken_apart() {
        expect("postgres://", &[]);
        expect("postgresql:///shop", &[("dbname", "shop")]);
        expect("postgres://localhost", &[("host", "localhost")]);
        expect(
            "postgres://me:p%40ss%2F@db.example:5433/shop?sslmode=require&application_name=a%20b",
            &[
                ("application_name", "a b"),
                ("dbname", "shop"),
                ("host", "db.example"),
                ("password", "p@ss/"),
                ("port", "5433"),
                ("sslmode", "require"),
                ("user", "me"),
            ],
        );
        expect("postgres://a:1,b,[::1]:3/x", &[("dbname", "x"), ("host", "a,b,::1"), ("port", "1,,3")]);
        expect("postgres://%2Fvar%2Frun/x", &[("dbname", "x"), ("host", "/var/run")]);
        expect("postgres:///x?host=/tmp&port=99", &[("dbname", "x"), ("host", "/tmp"), ("port", "99")]);
        expect("postgres://h?ssl=true", &[("host", "h"), ("sslmode", "require")]);
        expect("postgres://:secret@h", &[("host", "h"), ("password", "secret")]);
    }

    #[test]
    fn malformed_strings_are_refused_without_repeating_secrets() {
        for text in [
            "password=two secrets",
            "password='secret",
            "postgres://u:sec%zzret@h",
            "postgres://u:sec%00ret@h",
            "postgres://u:sec%ffret@h",
            "postgres://u:secret%4@h",
            "postgres://[::1/x",
            "postgres://[]/x",
            "postgres://[::1]x/x",
            "postgres://h?secret",
            "postgres://h?password=a=secret",
        ] {
            let error = parse(text).unwrap_err();
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
