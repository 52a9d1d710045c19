//! Barman's hook scripts: what the environment says when Barman itself calls one of these commands.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::ending::Stop;

/// The hook and its phase, when this process is one (Barman sets both variables).
fn hook(env: &BTreeMap<String, String>) -> Option<(&str, &str)> {
    Some((env.get("BARMAN_HOOK")?, env.get("BARMAN_PHASE")?))
}

/// The WAL file to archive when Barman calls `barman-cloud-wal-archive` before it archives one itself; `None` when this is
/// no hook script.
///
/// Errors: another hook than `archive_script` or `archive_retry_script`, or another phase than `pre`; exit 1.
pub(super) fn wal_file(env: &BTreeMap<String, String>) -> Result<Option<PathBuf>, Stop> {
    match hook(env) {
        None => Ok(None),
        Some(("archive_script" | "archive_retry_script", "pre")) => {
            let file = env.get("BARMAN_FILE").filter(|path| !path.is_empty());
            file.map(PathBuf::from).map(Some).ok_or_else(|| Stop::failed("BARMAN_FILE environment variable not set"))
        }
        Some((hook, phase)) => {
            Err(Stop::failed(format!("barman-cloud-wal-archive called as unsupported hook script: {phase}_{hook}")))
        }
    }
}

/// Refuses to be Barman's hook script: what it would have to upload is a backup on a Barman server, which is not built.
pub(super) fn refuse_backup(env: &BTreeMap<String, String>) -> Result<(), Stop> {
    match hook(env) {
        None => Ok(()),
        Some(_) => Err(Stop::usage(
            "barman-cloud-backup as a hook script of Barman (BARMAN_HOOK) is not supported by barback: \
             use Barman's own program for it",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_archive_hook_names_its_file_and_other_hooks_are_refused() {
        let file = ("BARMAN_FILE", "/srv/wals/000000010000000000000001");
        assert_eq!(wal_file(&env(&[file])).unwrap(), None);
        for hook in ["archive_script", "archive_retry_script"] {
            let hooked = env(&[("BARMAN_HOOK", hook), ("BARMAN_PHASE", "pre"), file]);
            assert_eq!(wal_file(&hooked).unwrap(), Some(PathBuf::from(file.1)));
            assert!(wal_file(&env(&[("BARMAN_HOOK", hook), ("BARMAN_PHASE", "pre")])).is_err());
        }
        let other = wal_file(&env(&[("BARMAN_HOOK", "archive_script"), ("BARMAN_PHASE", "post"), file]));
        let Err(Stop::Said { code: 1, text }) = other else { unreachable!("it must be refused") };
        assert!(text.ends_with("unsupported hook script: post_archive_script"), "{text}");
    }

    #[test]
    fn a_backup_hook_is_refused_as_usage() {
        assert!(refuse_backup(&env(&[("BARMAN_HOOK", "backup_script")])).is_ok());
        let hooked = env(&[("BARMAN_HOOK", "backup_script"), ("BARMAN_PHASE", "post")]);
        assert!(matches!(refuse_backup(&hooked), Err(Stop::Said { code: 3, .. })));
    }
}
