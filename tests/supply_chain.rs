//! What comes into the house is what `deny.toml` lets in: licences, registries, crates that are banned, versions that are pinned.
//!
//! `make deny` asks cargo-deny the same, and the advisory database too, which a machine without the Internet does not have.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of tests fails the test that called it")]

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

fn rules() -> toml::Table {
    std::fs::read_to_string(root("deny.toml")).unwrap().parse().unwrap()
}

fn root(name: &str) -> String {
    format!("{}/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Every package that any build of ours on one of the platforms takes, those of tests too; ours is none of them.
fn packages() -> Vec<Value> {
    let platforms = rules()["graph"]["targets"].as_array().unwrap().clone();
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let words = ["metadata", "--locked", "--all-features", "--format-version", "1"];
    let mut command = Command::new(cargo);
    command.args(words).args(["--manifest-path", &root("Cargo.toml")]);
    for platform in &platforms {
        command.args(["--filter-platform", platform.as_str().unwrap()]);
    }
    let said = command.output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let said: Value = serde_json::from_slice(&said.stdout).unwrap();
    let packages: Vec<Value> = said["packages"].as_array().unwrap().clone();
    assert!(packages.len() > 100, "{}", packages.len());
    packages.into_iter().filter(|package| package["name"] != "barback").collect()
}

fn words(value: &toml::Value) -> BTreeSet<String> {
    value.as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_owned()).collect()
}

/// True when a licence expression can be met with these licences: `A OR (B AND C)`, and the older `A/B`.
fn is_allowed(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let expression = expression.replace('/', " OR ");
    let (any, all) = (parts(&expression, "OR"), parts(&expression, "AND"));
    if any.len() > 1 {
        any.iter().any(|part| is_allowed(part, allowed))
    } else if all.len() > 1 {
        all.iter().all(|part| is_allowed(part, allowed))
    } else if let Some(inner) = expression.trim().strip_prefix('(').and_then(|inner| inner.strip_suffix(')')) {
        is_allowed(inner, allowed)
    } else {
        allowed.contains(expression.trim())
    }
}

/// What stands between the words `at` that are in no brackets.
fn parts(expression: &str, at: &str) -> Vec<String> {
    let (mut depth, mut parts) = (0_usize, vec![Vec::new()]);
    for word in expression.replace('(', " ( ").replace(')', " ) ").split_whitespace() {
        match word {
            "(" => depth += 1,
            ")" => depth -= 1,
            _ if word == at && depth == 0 => {
                parts.push(Vec::new());
                continue;
            }
            _ => {}
        }
        parts.last_mut().expect("there is always one").push(word.to_owned());
    }
    parts.into_iter().map(|words| words.join(" ")).collect()
}

#[test]
fn every_dependency_has_a_licence_that_is_allowed() {
    let allowed = words(&rules()["licenses"]["allow"]);
    for package in packages() {
        let name = &package["name"];
        let licence = package["license"].as_str().unwrap_or_else(|| panic!("{name} names no licence"));
        assert!(is_allowed(licence, &allowed), "{name} is under {licence}");
    }
}

#[test]
fn every_dependency_comes_from_the_one_registry_and_none_is_banned() {
    let rules = rules();
    let banned = rules["bans"]["deny"].as_array().unwrap().iter();
    let banned: BTreeSet<&str> = banned.map(|entry| entry["crate"].as_str().unwrap()).collect();
    for package in packages() {
        let (name, source) = (package["name"].as_str().unwrap(), package["source"].as_str());
        assert_eq!(source, Some("registry+https://github.com/rust-lang/crates.io-index"), "{name}");
        assert!(!banned.contains(name), "{name} is banned");
    }
}

#[test]
fn no_version_of_a_dependency_is_left_open_and_all_are_pinned() {
    let manifest: toml::Table = std::fs::read_to_string(root("Cargo.toml")).unwrap().parse().unwrap();
    for section in ["dependencies", "dev-dependencies"] {
        for (name, entry) in manifest[section].as_table().unwrap() {
            let version = entry.as_str().or_else(|| entry["version"].as_str()).unwrap();
            assert!(!version.contains('*'), "{name} = {version}");
        }
    }
    let lints = manifest["lints"]["rust"].as_table().unwrap();
    assert_eq!(lints["unsafe_code"].as_str(), Some("forbid"));
    let pinned = std::fs::read_to_string(root("Cargo.lock")).unwrap();
    assert!(pinned.contains("name = \"barback\""));
}

#[test]
fn licence_expressions_are_understood() {
    let allowed = ["MIT", "Apache-2.0", "ISC"].map(str::to_owned).into();
    for (expression, expected) in [
        ("MIT", true),
        ("MIT/GPL-3.0", true),
        ("GPL-3.0 OR MIT", true),
        ("GPL-3.0", false),
        ("MIT AND GPL-3.0", false),
        ("(MIT OR GPL-3.0) AND ISC", true),
        ("(MIT AND GPL-3.0) OR (ISC AND Apache-2.0)", true),
        ("Apache-2.0 WITH LLVM-exception", false),
    ] {
        assert_eq!(is_allowed(expression, &allowed), expected, "{expression}");
    }
}
