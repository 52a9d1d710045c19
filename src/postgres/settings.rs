//! Text of PostgreSQL's configuration files: taking settings out, putting ours in, quoting.
//!
//! Syntax as in PostgreSQL's `guc-file.l`: one `name = value` or `name value` a line, `#` begins a comment, values may
//! be in single quotes, names are not case-sensitive.

/// Settings of an earlier recovery, which a restored copy must not inherit. `recovery_target_*` counts too.
///
/// `promote_trigger_file` is one of them: from version 16 on a server that finds it does not start.
/// `primary_conninfo` and `primary_slot_name` are not: without `standby.signal` they have no effect.
pub const RECOVERY_SETTINGS: [&str; 6] = [
    "restore_command",
    "recovery_target",
    "recovery_end_command",
    "archive_cleanup_command",
    "recovery_min_apply_delay",
    "promote_trigger_file",
];

/// What leaves nothing of an earlier recovery in force, wherever it was set: for files that are included.
///
/// These must stand before the one target that is wanted, because PostgreSQL assigns settings in the order of their
/// lines and an empty target after it would be a second one (`assign_recovery_target` and its kin).
pub const NO_RECOVERY_SETTINGS: [(&str, &str); 8] = [
    ("recovery_target", ""),
    ("recovery_target_name", ""),
    ("recovery_target_time", ""),
    ("recovery_target_xid", ""),
    ("recovery_target_lsn", ""),
    ("recovery_end_command", ""),
    ("archive_cleanup_command", ""),
    ("recovery_min_apply_delay", "0"),
];

/// Put in front of a line to switch it off.
const SWITCHED_OFF: &str = "# barback: ";
/// Said above our own settings.
const HEADLINE: &str = "# Written by barback restore";

/// Switches off every line of `conf_text` that sets one of `names` or a setting of an earlier recovery.
///
/// Returns the new text and the lines that were switched off, in their order. All else stays byte for byte.
#[must_use]
pub fn neutralise(conf_text: &str, names: &[&str]) -> (String, Vec<String>) {
    let mut text = String::with_capacity(conf_text.len());
    let mut removed = Vec::new();
    for line in conf_text.split_inclusive('\n') {
        let misleads =
            |name: &str| is_recovery_setting(name) || names.iter().any(|wanted| name.eq_ignore_ascii_case(wanted));
        if setting_name(line).is_some_and(misleads) {
            text.push_str(SWITCHED_OFF);
            removed.push(line.trim().to_owned());
        }
        text.push_str(line);
    }
    (text, removed)
}

/// The text of a `postgresql.auto.conf` with the settings `set`.
///
/// Lines of `existing` that set these, or anything in [`RECOVERY_SETTINGS`], are left out; so are our own headlines.
#[must_use]
pub fn auto_conf(existing: &str, set: &[(String, String)]) -> String {
    let mut text = String::new();
    for line in existing.lines() {
        let replaced = setting_name(line).is_some_and(|name| {
            is_recovery_setting(name) || set.iter().any(|(ours, _)| name.eq_ignore_ascii_case(ours))
        });
        if !replaced && line != HEADLINE {
            text.push_str(line);
            text.push('\n');
        }
    }
    if !set.is_empty() {
        text.push_str(HEADLINE);
        text.push('\n');
    }
    for (name, value) in set {
        text.push_str(name);
        text.push_str(" = ");
        text.push_str(&quote(value));
        text.push('\n');
    }
    text
}

/// True for a setting of an earlier recovery: one of [`RECOVERY_SETTINGS`] or `recovery_target_*`, in any case.
#[must_use]
pub fn is_recovery_setting(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    RECOVERY_SETTINGS.contains(&name.as_str()) || name.starts_with("recovery_target_")
}

/// True when `conf_text` includes other files (`include`, `include_if_exists`, `include_dir`).
#[must_use]
pub fn includes_others(conf_text: &str) -> bool {
    let directive = |name: &str| name.get(..7).is_some_and(|begin| begin.eq_ignore_ascii_case("include"));
    conf_text.lines().filter_map(setting_name).any(directive)
}

/// The name an active line sets; `None` for blank lines and comments.
fn setting_name(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let end = line
        .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '$' | '.') || !c.is_ascii()))
        .unwrap_or(line.len());
    let name = line.get(..end)?;
    (!name.is_empty()).then_some(name)
}

/// A value in single quotes: quotes and backslashes doubled (PostgreSQL `escape_single_quotes_ascii`), line ends as
/// escapes, since a value must not span lines.
fn quote(value: &str) -> String {
    let mut quoted = String::with_capacity(value.len() + 2);
    quoted.push('\'');
    for c in value.chars() {
        match c {
            '\'' => quoted.push_str("''"),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            _ => quoted.push(c),
        }
    }
    quoted.push('\'');
    quoted
}

/// A word as a POSIX shell reads it back unchanged; plain words stay as they are.
#[must_use]
pub fn shell_quote(word: &str) -> String {
    let plain =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | ':' | '=' | ',' | '@' | '+' | '%');
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// A `restore_command`: the words of `argv` quoted for the shell and with `%` doubled, then `suffix` as it is, such
/// as ` wal-restore %f "%p"`.
#[must_use]
pub fn restore_command(argv: &[String], suffix: &str) -> String {
    let words: Vec<String> = argv.iter().map(|word| shell_quote(word).replace('%', "%%")).collect();
    words.join(" ") + suffix
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_active_lines_of_the_named_settings_are_switched_off() {
        let conf = "# archive_mode = on\n archive_mode=on # yes\nARCHIVE_COMMAND 'cp %p ''x'''\nport = 5\n\
            archive_mode_x = 1\narchive_mode'on'\n\tarchive_mode\t=\toff";
        let (text, removed) = neutralise(conf, &["archive_mode", "archive_command"]);
        let expected = "# archive_mode = on\n# barback:  archive_mode=on # yes\n\
            # barback: ARCHIVE_COMMAND 'cp %p ''x'''\nport = 5\narchive_mode_x = 1\n# barback: archive_mode'on'\n\
            # barback: \tarchive_mode\t=\toff";
        assert_eq!(text, expected);
        let lines =
            ["archive_mode=on # yes", "ARCHIVE_COMMAND 'cp %p ''x'''", "archive_mode'on'", "archive_mode\t=\toff"];
        assert_eq!(removed, lines);
        assert_eq!(neutralise(&text, &["archive_mode", "archive_command"]), (text.clone(), Vec::new()));
    }

    #[test]
    fn earlier_recovery_settings_go_and_the_rest_stays() {
        let existing = "# Do not edit this file manually!\nwork_mem = '64MB'\nrestore_command = 'old'\n\
            Recovery_Target_Time = 'x'\nrecovery_target = 'immediate'\npromote_trigger_file = '/x'\n\
            primary_conninfo = 'host=a'\narchive_mode = 'on'\n";
        let set = [("restore_command".to_owned(), "new".to_owned()), ("archive_mode".to_owned(), "off".to_owned())];
        let expected = "# Do not edit this file manually!\nwork_mem = '64MB'\nprimary_conninfo = 'host=a'\n\
            # Written by barback restore\nrestore_command = 'new'\narchive_mode = 'off'\n";
        let text = auto_conf(existing, &set);
        assert_eq!(text, expected);
        assert_eq!(auto_conf(&text, &set), expected, "a second restore changes nothing");
        assert_eq!(auto_conf("", &[]), "");
    }

    #[test]
    fn recovery_settings_are_switched_off_whatever_else_is_asked_for() {
        let conf =
            "Archive_Cleanup_Command = 'x'\nrecovery_min_apply_delay = 1h\nrecovery_target_inclusive off\nport = 5";
        let (text, removed) = neutralise(conf, &[]);
        assert_eq!(removed.len(), 3, "{text}");
        assert!(text.ends_with("\nport = 5"), "{text}");
    }

    #[test]
    fn an_included_file_is_seen() {
        for conf in ["include 'a.conf'", "x = 1\n  INCLUDE_DIR='conf.d'", "include_if_exists a.conf"] {
            assert!(includes_others(conf), "{conf}");
        }
        for conf in ["", "#include_dir = 'conf.d'", "x = 'include a'", "# see include"] {
            assert!(!includes_others(conf), "{conf}");
        }
    }

    #[test]
    fn values_are_quoted_as_the_server_reads_them() {
        let set = [("a".to_owned(), "it's 100% \\ \n".to_owned())];
        assert_eq!(auto_conf("x = 1", &set), "x = 1\n# Written by barback restore\na = 'it''s 100% \\\\ \\n'\n");
    }

    #[test]
    fn a_restore_command_survives_shell_and_server() {
        let argv = ["/opt/my tools/barback", "--store", "file:///a%20b", "--server", "it's"].map(str::to_owned);
        let expected = r#"'/opt/my tools/barback' --store file:///a%%20b --server 'it'\''s' wal-restore %f "%p""#;
        assert_eq!(restore_command(&argv, r#" wal-restore %f "%p""#), expected);
        assert_eq!(shell_quote(""), "''");
    }

    proptest! {
        #[test]
        fn a_shell_reads_words_back(word in "[^\0]*") {
            let output = std::process::Command::new("/bin/sh")
                .arg("-c")
                .arg(format!("printf %s {}", shell_quote(&word)))
                .output()
                .unwrap();
            prop_assert_eq!(output.stdout, word.into_bytes());
        }
    }
}
