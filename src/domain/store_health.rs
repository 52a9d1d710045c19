//! What is wrong with a store, from what was tried there.

use chrono::TimeDelta;

use crate::domain::finding::{Finding, Severity};

/// A request that was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// A new object.
    Put,
    /// The same object read back.
    Get,
    /// It found in a listing.
    List,
    /// It deleted.
    Delete,
    /// Two objects deleted with one request.
    DeleteBatch,
    /// An upload in parts begun, and thrown away.
    Multipart,
}

/// How a try ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt {
    /// As it should.
    Allowed,
    /// The store said no, in these words.
    Refused(String),
    /// Nobody knows: an answer that says neither.
    Unclear(String),
}

/// The kind of store, for the names that its rights have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreKind {
    /// S3 and its like.
    S3,
    /// Azure Blob Storage.
    Azure,
    /// Google Cloud Storage.
    Gcs,
    /// A directory.
    Directory,
}

/// A lifecycle rule that is switched on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LifecycleRule {
    /// Its name.
    pub id: String,
    /// Objects whose keys begin so are meant; an empty one means all.
    pub prefix: String,
    /// When it deletes current versions, as the end of a sentence; none when it does not.
    pub deletes: Option<String>,
    /// Whether it throws away uploads that nobody completes.
    pub aborts_uploads: bool,
    /// Whether it asks for more than a prefix: tags, sizes.
    pub is_narrower: bool,
}

/// What the bucket itself does to objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lifecycle {
    /// These rules.
    Known(Vec<LifecycleRule>),
    /// It could not be asked, for this reason.
    Unknown(String),
    /// There is no such thing: a directory.
    None,
}

/// What is known of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreFacts {
    /// The kind.
    pub kind: StoreKind,
    /// Its URL.
    pub place: String,
    /// The prefix of everything of this server: `P/S/`.
    pub root: String,
    /// What was tried, and how it ended.
    pub rights: Vec<(Right, Attempt)>,
    /// Whether a create-only put replaces nothing; none when that was not seen.
    pub is_create_only_honoured: Option<bool>,
    /// What the server calls itself.
    pub server: Option<String>,
    /// Whether several objects cannot be deleted with one request, and are deleted one by one.
    pub lacks_batches: bool,
    /// Whether objects can be locked; none where that was not answered.
    pub can_lock: Option<bool>,
    /// The store's clock less this host's.
    pub clock_ahead: Option<TimeDelta>,
    /// What the bucket does by itself.
    pub lifecycle: Lifecycle,
    /// The key of an object that was made for this and could not be deleted.
    pub leftover: Option<String>,
}

/// S3 refuses requests of clocks that are 15 minutes off: a third of that is trouble on its way.
const SKEW_PROBLEM: TimeDelta = TimeDelta::minutes(5);

/// Servers that keep time are never so far off.
const SKEW_WARNING: TimeDelta = TimeDelta::seconds(30);

/// Everything that is to be said of a store that answers.
#[must_use]
pub fn findings(facts: &StoreFacts) -> Vec<Finding> {
    let mut findings = vec![Finding::good("store-reachable", format!("{} answers", facts.place))];
    findings.extend(dialect(facts));
    findings.extend(clock(facts));
    if facts.is_refused_for_its_clock() {
        let what = "the store refuses every request as long as the clocks differ";
        findings.push(Finding::new(Severity::Unknown, "store-rights", what, "the rights of this host are not known"));
    } else {
        findings.extend(facts.rights.iter().map(|(right, attempt)| facts.right(*right, attempt)));
    }
    findings.extend(create_only(facts));
    findings.extend(lifecycle(facts));
    findings
}

impl StoreFacts {
    fn attempt(&self, right: Right) -> Option<&Attempt> {
        self.rights.iter().find(|(tried, _)| *tried == right).map(|(_, attempt)| attempt)
    }

    fn is_refused_for_its_clock(&self) -> bool {
        let is_off = self.clock_ahead.is_some_and(|ahead| ahead.abs() > SKEW_PROBLEM);
        is_off
            && matches!(self.attempt(Right::Put), Some(Attempt::Refused(_)))
            && matches!(self.attempt(Right::List), Some(Attempt::Refused(_)))
    }

    fn right(&self, right: Right, attempt: &Attempt) -> Finding {
        let (code, does, why) = match right {
            Right::Put => ("store-put", "write objects", "nothing can be archived"),
            Right::Get => {
                ("store-get", "read objects", "nothing can be restored, and a segment that is there cannot be compared")
            }
            Right::List => (
                "store-list",
                "list objects",
                "no backup is found, and the end of the WAL cannot be told from an error",
            ),
            Right::Multipart => {
                ("store-multipart", "upload in parts and throw such an upload away", "no base backup can be taken")
            }
            Right::DeleteBatch => {
                ("store-delete-batch", "delete several objects with one request", "expire cannot make room")
            }
            Right::Delete => return self.delete(attempt),
        };
        match attempt {
            Attempt::Allowed => Finding::good(code, format!("this host may {does}")),
            Attempt::Refused(cause) => {
                let severity = if right == Right::DeleteBatch { Severity::Warning } else { Severity::Problem };
                Finding::new(severity, code, format!("this host may not {does}: {cause}"), why)
                    .with_next(self.grant(right))
            }
            // Whoever archives needs these now.
            Attempt::Unclear(cause) if matches!(right, Right::Put | Right::Get | Right::List) => {
                Finding::new(Severity::Problem, code, format!("this host could not {does}: {cause}"), why)
            }
            Attempt::Unclear(cause) => {
                let what = format!("it is not known whether this host may {does}: {cause}");
                Finding::new(Severity::Unknown, code, what, why)
            }
        }
    }

    /// Both answers are good ones: to delete is needed by `expire` alone, and dangerous in the hands of whoever takes a host over.
    fn delete(&self, attempt: &Attempt) -> Finding {
        let code = "store-delete";
        let left = self
            .leftover
            .as_ref()
            .map(|key| format!("; \"{key}\" is left there, and will be used again"))
            .unwrap_or_default();
        match attempt {
            Attempt::Allowed => Finding::new(
                Severity::Good,
                code,
                "this host may delete objects, as expire must",
                "whoever takes this host over can delete the archive too, where no versioning or object lock holds it",
            ),
            Attempt::Refused(_) => Finding::new(
                Severity::Good,
                code,
                format!("this host may not delete objects{left}"),
                "whoever takes this host over cannot delete the archive; expire must run with other credentials",
            ),
            Attempt::Unclear(cause) => Finding::new(
                Severity::Unknown,
                code,
                format!("it is not known whether this host may delete objects: {cause}{left}"),
                "expire needs to",
            ),
        }
    }

    fn grant(&self, right: Right) -> String {
        let root = &self.root;
        match (self.kind, right) {
            (StoreKind::S3, Right::Put) => format!("allow s3:PutObject on {root}*"),
            (StoreKind::S3, Right::Get) => format!("allow s3:GetObject on {root}*"),
            (StoreKind::S3, Right::List) => format!("allow s3:ListBucket on the bucket, for the prefix {root}*"),
            (StoreKind::S3, Right::Delete | Right::DeleteBatch) => format!("allow s3:DeleteObject on {root}*"),
            (StoreKind::S3, Right::Multipart) => {
                format!("allow s3:PutObject and s3:AbortMultipartUpload on {root}*")
            }
            (StoreKind::Gcs, Right::Put) => "allow storage.objects.create (roles/storage.objectUser)".to_owned(),
            (StoreKind::Gcs, Right::Get) => "allow storage.objects.get (roles/storage.objectUser)".to_owned(),
            (StoreKind::Gcs, Right::List) => "allow storage.objects.list (roles/storage.objectUser)".to_owned(),
            (StoreKind::Gcs, Right::Delete | Right::DeleteBatch) => {
                "allow storage.objects.delete (roles/storage.objectUser)".to_owned()
            }
            (StoreKind::Gcs, Right::Multipart) => {
                "allow storage.multipartUploads.create and storage.multipartUploads.abort (roles/storage.objectUser)".to_owned()
            }
            (StoreKind::Azure, Right::Get | Right::List) => {
                "allow Microsoft.Storage/storageAccounts/blobServices/containers/blobs/read (Storage Blob Data Contributor), or r and l of a SAS".to_owned()
            }
            (StoreKind::Azure, Right::Put | Right::Multipart) => {
                "allow Microsoft.Storage/storageAccounts/blobServices/containers/blobs/write (Storage Blob Data Contributor), or c and w of a SAS".to_owned()
            }
            (StoreKind::Azure, Right::Delete | Right::DeleteBatch) => {
                "allow Microsoft.Storage/storageAccounts/blobServices/containers/blobs/delete (Storage Blob Data Contributor), or d of a SAS".to_owned()
            }
            (StoreKind::Directory, _) => format!("look at who owns the directory: ls -ld {}", self.place.trim_start_matches("file://")),
        }
    }
}

/// Which server it is, and what of the protocol it takes. Nothing of a directory.
fn dialect(facts: &StoreFacts) -> Option<Finding> {
    let protocol = match facts.kind {
        StoreKind::S3 => "S3",
        StoreKind::Azure => "Azure Blob Storage",
        StoreKind::Gcs => "Google Cloud Storage",
        StoreKind::Directory => return None,
    };
    let said = facts.server.as_deref().unwrap_or_default();
    // Their own words for themselves.
    let known = [
        ("AmazonS3", "AWS"),
        ("MinIO", "MinIO"),
        ("Ceph", "Ceph"),
        ("cloudflare", "Cloudflare"),
        ("Azurite", "Azurite"),
        ("Windows-Azure-Blob", "Azure"),
        ("UploadServer", "Google"),
    ];
    let name = known.iter().find(|(word, _)| said.starts_with(word)).map(|(_, name)| (*name).to_owned());
    let name = name.unwrap_or_else(|| match said {
        "" => "a server that does not say its name".to_owned(),
        said => format!("a server that calls itself \"{}\"", said.escape_debug()),
    });
    let mut says = vec![format!("{name} speaks {protocol}")];
    says.extend(facts.is_create_only_honoured.map(|is_honoured| {
        if is_honoured { "honours create-only puts".to_owned() } else { "ignores create-only puts".to_owned() }
    }));
    if facts.kind == StoreKind::S3 {
        says.extend(matches!(facts.attempt(Right::DeleteBatch), Some(Attempt::Allowed)).then(|| {
            let how =
                if facts.lacks_batches { "deletes objects one by one" } else { "deletes a thousand objects at once" };
            how.to_owned()
        }));
        says.extend(
            facts.can_lock.map(|can| if can { "may lock objects".to_owned() } else { "locks no objects".to_owned() }),
        );
    }
    Some(Finding::good("dialect", says.join(", ")))
}

fn clock(facts: &StoreFacts) -> Option<Finding> {
    let ahead = facts.clock_ahead?;
    let code = "clock-skew";
    let differ = || {
        let word = if ahead > TimeDelta::zero() { "behind" } else { "ahead of" };
        format!("this host's clock is {} s {word} the store's", ahead.abs().num_seconds())
    };
    Some(if ahead.abs() > SKEW_PROBLEM {
        let why = match facts.kind {
            StoreKind::S3 => "S3 refuses requests of a clock that is 15 minutes off, and ages cannot be compared",
            _ => "signatures of a clock that is off are refused, and ages cannot be compared",
        };
        Finding::new(Severity::Problem, code, differ(), why).with_next("timedatectl set-ntp true")
    } else if ahead.abs() > SKEW_WARNING {
        let why = "S3 refuses requests once it is 15 minutes, and ages of backups and WAL are off by as much";
        Finding::new(Severity::Warning, code, differ(), why).with_next("timedatectl set-ntp true")
    } else {
        Finding::good(code, "this host's clock agrees with the store's")
    })
}

fn create_only(facts: &StoreFacts) -> Option<Finding> {
    let code = "create-only";
    Some(if facts.is_create_only_honoured? {
        Finding::good(code, "a put that must not replace an object replaces none")
    } else {
        Finding::new(
            Severity::Warning,
            code,
            "the store ignores If-None-Match: it replaces an object it was told not to",
            "two hosts that archive the same name in the same moment overwrite each other; barback looks before it writes, which leaves that moment",
        )
        .with_next("give every cluster a --server of its own, or use a store that honours conditional writes")
    })
}

fn lifecycle(facts: &StoreFacts) -> Vec<Finding> {
    let code = "lifecycle";
    let rules = match &facts.lifecycle {
        Lifecycle::None => return Vec::new(),
        Lifecycle::Unknown(cause) => {
            let what = format!("the bucket's lifecycle rules are not known: {cause}");
            let why = "a rule that deletes by age knows nothing of the WAL that a backup needs";
            return vec![Finding::new(Severity::Unknown, code, what, why)];
        }
        Lifecycle::Known(rules) => rules,
    };
    let root = &facts.root;
    let reaches = |rule: &&LifecycleRule| root.starts_with(&rule.prefix) || rule.prefix.starts_with(root);
    let eating = rules.iter().filter(reaches).filter_map(|rule| Some(eats(rule, rule.deletes.as_ref()?, root)));
    let mut findings: Vec<Finding> = eating.collect();
    if findings.is_empty() {
        findings.push(Finding::good(code, "no lifecycle rule of the bucket deletes objects of this archive"));
    }
    let aborts_uploads = rules.iter().any(|rule| rule.aborts_uploads && root.starts_with(&rule.prefix));
    if !aborts_uploads && facts.kind == StoreKind::S3 {
        let why = "what a killed client had uploaded is stored, and paid for, until somebody aborts it: add a rule with \
                   AbortIncompleteMultipartUpload";
        let what = "no lifecycle rule throws unfinished uploads away";
        findings.push(Finding::new(Severity::Good, "lifecycle-uploads", what, why));
    }
    findings
}

fn eats(rule: &LifecycleRule, when: &str, root: &str) -> Finding {
    let whose =
        if rule.prefix.is_empty() { "of the whole bucket".to_owned() } else { format!("below \"{}\"", rule.prefix) };
    let (severity, some) =
        if rule.is_narrower { (Severity::Warning, "some objects") } else { (Severity::Problem, "objects") };
    let what = format!("lifecycle rule \"{}\" deletes {some} {whose} {when}", rule.id);
    let why = "it deletes WAL and parts of backups that other backups and restores still need, and nobody is told";
    Finding::new(severity, "lifecycle", what, why)
        .with_next(format!("take {root} out of the rule's reach, and let barback expire decide what may go"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> StoreFacts {
        let all = [Right::Put, Right::Get, Right::List, Right::Delete, Right::DeleteBatch, Right::Multipart];
        StoreFacts {
            kind: StoreKind::S3,
            place: "s3://bkt/pfx".to_owned(),
            root: "pfx/main/".to_owned(),
            rights: all.map(|right| (right, Attempt::Allowed)).to_vec(),
            is_create_only_honoured: Some(true),
            server: Some("MinIO".to_owned()),
            lacks_batches: false,
            can_lock: Some(false),
            clock_ahead: Some(TimeDelta::seconds(1)),
            lifecycle: Lifecycle::Known(vec![aborting()]),
            leftover: None,
        }
    }

    fn aborting() -> LifecycleRule {
        LifecycleRule {
            id: "uploads".to_owned(),
            prefix: String::new(),
            deletes: None,
            aborts_uploads: true,
            is_narrower: false,
        }
    }

    fn severity_of(facts: &StoreFacts, code: &str) -> Vec<Severity> {
        findings(facts).into_iter().filter(|finding| finding.code == code).map(|finding| finding.severity).collect()
    }

    #[test]
    fn a_store_that_does_everything_has_no_fault() {
        let found = findings(&facts());
        assert!(found.iter().all(|finding| finding.severity == Severity::Good), "{found:?}");
        assert_eq!(found.len(), 11);
        let dialect = found.iter().find(|finding| finding.code == "dialect").unwrap();
        assert_eq!(
            dialect.what,
            "MinIO speaks S3, honours create-only puts, deletes a thousand objects at once, locks no objects"
        );
    }

    #[test]
    fn a_right_that_is_missing_is_named_with_its_action() {
        for (right, severity, action) in [
            (Right::Put, Severity::Problem, "s3:PutObject on pfx/main/*"),
            (Right::Get, Severity::Problem, "s3:GetObject"),
            (Right::List, Severity::Problem, "s3:ListBucket"),
            (Right::Multipart, Severity::Problem, "s3:AbortMultipartUpload"),
            (Right::DeleteBatch, Severity::Warning, "s3:DeleteObject"),
        ] {
            let mut facts = facts();
            for tried in &mut facts.rights {
                if tried.0 == right {
                    tried.1 = Attempt::Refused("AccessDenied".to_owned());
                }
            }
            let found = findings(&facts);
            let worse: Vec<&Finding> = found.iter().filter(|finding| finding.severity != Severity::Good).collect();
            let [one] = worse[..] else { panic!("{worse:?}") };
            assert_eq!(one.severity, severity);
            assert!(one.next.as_ref().unwrap().contains(action), "{one:?}");
        }
    }

    #[test]
    fn a_store_that_fails_is_a_problem_where_archiving_needs_it_and_else_unknown() {
        let expected = [
            (Right::Put, "store-put", Severity::Problem),
            (Right::Get, "store-get", Severity::Problem),
            (Right::List, "store-list", Severity::Problem),
            (Right::Delete, "store-delete", Severity::Unknown),
            (Right::Multipart, "store-multipart", Severity::Unknown),
        ];
        for (right, code, severity) in expected {
            let facts = StoreFacts { rights: vec![(right, Attempt::Unclear("507".to_owned()))], ..facts() };
            assert_eq!(severity_of(&facts, code), [severity]);
        }
    }

    #[test]
    fn to_delete_and_not_to_delete_are_both_fine_and_said() {
        let mut facts = facts();
        assert_eq!(severity_of(&facts, "store-delete"), [Severity::Good]);
        facts.rights[3].1 = Attempt::Refused("AccessDenied".to_owned());
        facts.leftover = Some("pfx/main/barback/check-probe-h".to_owned());
        let found = findings(&facts);
        let delete = found.iter().find(|finding| finding.code == "store-delete").unwrap();
        assert_eq!(delete.severity, Severity::Good);
        assert!(delete.what.contains("check-probe-h"), "{delete:?}");
    }

    #[test]
    fn a_clock_is_judged_by_how_far_it_is_off_either_way() {
        for (seconds, expected) in [
            (0, Severity::Good),
            (30, Severity::Good),
            (31, Severity::Warning),
            (-31, Severity::Warning),
            (300, Severity::Warning),
            (301, Severity::Problem),
            (-4000, Severity::Problem),
        ] {
            let facts = StoreFacts { clock_ahead: Some(TimeDelta::seconds(seconds)), ..facts() };
            assert_eq!(severity_of(&facts, "clock-skew"), [expected], "{seconds}");
        }
    }

    #[test]
    fn rights_are_not_blamed_for_a_clock() {
        let mut facts = StoreFacts { clock_ahead: Some(TimeDelta::hours(2)), ..facts() };
        for tried in &mut facts.rights {
            tried.1 = Attempt::Refused("RequestTimeTooSkewed".to_owned());
        }
        assert_eq!(severity_of(&facts, "store-put"), []);
        assert_eq!(severity_of(&facts, "store-rights"), [Severity::Unknown]);
        assert_eq!(severity_of(&facts, "clock-skew"), [Severity::Problem]);
    }

    #[test]
    fn a_lifecycle_rule_is_a_problem_where_it_reaches_the_archive() {
        for (prefix, is_narrower, expected) in [
            ("", false, Severity::Problem),
            ("pfx/", false, Severity::Problem),
            ("pfx/main/wals/", false, Severity::Problem),
            ("pfx/ma", false, Severity::Problem),
            ("pfx/", true, Severity::Warning),
            ("pfx/mainly/", false, Severity::Good),
            ("logs/", false, Severity::Good),
        ] {
            let deletes = Some("30 days after they were written".to_owned());
            let rule = LifecycleRule { prefix: prefix.to_owned(), deletes, is_narrower, ..aborting() };
            let lifecycle = Lifecycle::Known(vec![rule]);
            assert_eq!(severity_of(&StoreFacts { lifecycle, ..facts() }, "lifecycle"), [expected], "{prefix}");
        }
        let none = StoreFacts { lifecycle: Lifecycle::Known(Vec::new()), ..facts() };
        assert_eq!(severity_of(&none, "lifecycle-uploads"), [Severity::Good]);
        let unknown = StoreFacts { lifecycle: Lifecycle::Unknown("denied".to_owned()), ..facts() };
        assert_eq!(severity_of(&unknown, "lifecycle"), [Severity::Unknown]);
    }
}
