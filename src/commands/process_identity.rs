//! What tells a process from every other, so that another one on the same host can say that it is gone.

use std::fs;

/// This process: the host's boot, the namespace of process numbers, the number, and when it began. Empty where the system does
/// not tell.
pub(crate) fn own() -> String {
    of(std::process::id()).unwrap_or_default()
}

/// This host's name.
pub(crate) fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// True when `process`, as [`own`] told of it, runs no more. False where that cannot be known from here.
pub(crate) fn is_gone(process: &str) -> bool {
    let words: Vec<&str> = process.split(' ').collect();
    let [boot, namespace, number, _] = words[..] else { return false };
    let Some((here_boot, here_namespace)) = surroundings() else { return false };
    let Ok(number) = number.parse() else { return false };
    // A host that was booted anew since may be another of the same name: that proves nothing.
    boot == here_boot && namespace == here_namespace && of(number).as_deref() != Some(process)
}

fn of(number: u32) -> Option<String> {
    let (boot, namespace) = surroundings()?;
    let stat = fs::read_to_string(format!("/proc/{number}/stat")).ok()?;
    // The program's name, in parentheses, may hold anything; the 22nd field is the 20th behind it (proc_pid_stat(5)).
    let (_, fields) = stat.rsplit_once(')')?;
    let begun = fields.split_whitespace().nth(19)?;
    Some(format!("{boot} {namespace} {number} {begun}"))
}

fn surroundings() -> Option<(String, String)> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned();
    let namespace = fs::read_link("/proc/self/ns/pid").ok()?.to_str()?.to_owned();
    Some((boot, namespace))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_process_that_ended_here_is_known_to_be_gone() {
        let own = own();
        assert!(!is_gone(&own), "{own}");
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let process = of(child.id()).unwrap();
        assert!(!is_gone(&process));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(is_gone(&process));
        let words: Vec<&str> = process.split(' ').collect();
        for elsewhere in [
            format!("another-boot {} {} {}", words[1], words[2], words[3]),
            format!("{} pid:[1] {} {}", words[0], words[2], words[3]),
            String::new(),
            "x".to_owned(),
        ] {
            assert!(!is_gone(&elsewhere), "{elsewhere}");
        }
    }
}
