//! Nothing that barback says holds a secret: every run of every test is looked through.

use std::ffi::OsString;

use super::azurite::AZURE_KEY;
use super::s3_server::SECRET_KEY;

/// Variables whose whole value is a secret.
const SECRET_VARIABLES: [&str; 6] = [
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AZURE_STORAGE_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
    "AZURE_CLIENT_SECRET",
    "PGPASSWORD",
];

/// What is before a secret, in tokens, connection strings and URLs.
const BEFORE_SECRETS: [&str; 4] = ["sig=", "AccountKey=", "password=", "://user:"];

/// Passwords that tests use.
pub const TEST_PASSWORD: &str = "pw-that-nobody-may-print-5cT9";

/// Shorter ones, such as `a2V5`, are words of everyday text.
const SHORTEST: usize = 7;

/// Panics where `text`, which `who` said, holds a secret of the harness or of `env`.
pub fn expect_no_secret(who: &str, text: &str, env: &[(String, String)]) {
    for secret in secrets(env) {
        let Some(at) = text.find(&secret) else { continue };
        let before: String = text[..at].chars().rev().take(200).collect::<Vec<_>>().into_iter().rev().collect();
        panic!("{who} said a secret, behind: {before}");
    }
}

/// The same of the arguments of a program: everybody on the host can read them.
pub fn expect_no_secret_argument(args: &[OsString], env: &[(String, String)]) {
    let line: Vec<String> = args.iter().map(|arg| arg.to_string_lossy().into_owned()).collect();
    expect_no_secret("an argument", &line.join(" "), env);
}

fn secrets(env: &[(String, String)]) -> Vec<String> {
    let mut secrets = vec![SECRET_KEY.to_owned(), AZURE_KEY.to_owned(), TEST_PASSWORD.to_owned()];
    for (name, value) in env {
        if SECRET_VARIABLES.contains(&name.as_str()) {
            secrets.push(value.clone());
        }
        for before in BEFORE_SECRETS {
            let behind = value.split(before).skip(1);
            secrets.extend(behind.filter_map(|rest| rest.split(['&', ';', '@', ' ']).next()).map(str::to_owned));
        }
    }
    // A signature is percent-encoded in a token, and not in what is read from it.
    let decoded: Vec<String> =
        secrets.iter().map(|secret| secret.replace("%2B", "+").replace("%2F", "/").replace("%3D", "=")).collect();
    secrets.extend(decoded);
    secrets.retain(|secret| secret.len() >= SHORTEST);
    secrets
}
