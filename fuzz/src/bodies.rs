//! What each fuzz target does with its input. `cargo test` runs the same functions on the committed corpus, on damaged
//! copies of it and on random changes of it (`tests/integration/fuzz.rs`).
//!
//! Each answers whether the input was accepted; a parser that accepts something must give it back unchanged where its
//! form is canonical. Anything else that is wrong panics.

#[path = "bodies/edits.rs"]
mod edits;
#[path = "bodies/manager.rs"]
mod manager;
#[path = "bodies/volume.rs"]
mod volume;
#[path = "bodies/wire.rs"]
mod wire;

pub use manager::{audit, home};
pub use volume::{crash, damage, freshness, verify_notes};
pub use wire::{config, control, credentials, http, remote};

use std::sync::{Arc, OnceLock};

use kmsfs::crypto::aead::Backend;
use kmsfs::crypto::secret::SecretKey;
use kmsfs::env::{SystemClock, SystemEntropy};
use kmsfs::format::branch::BranchVersion;
use kmsfs::format::dirid::{self, Found};
use kmsfs::format::header::{self, HeaderInfo, HeaderPolicy, IMPLEMENTED_AEADS};
use kmsfs::format::keys::VolumeKeys;
use kmsfs::format::name::{NameCodec, NameForm};
use kmsfs::format::recipient::AllowList;
use kmsfs::format::size::Geometry;
use kmsfs::format::slot::{Place, build_slot, parse_slot};
use kmsfs::format::volume::VolumeFile;
use kmsfs::format::{symlink, xattr};
use kmsfs::kms::bundle::Bundle;
use kmsfs::kms::custody::{Home, NewHome, NewSlot, RecoveryKey};
use kmsfs::kms::model::{Caller, Principal};
use kmsfs::kms::policy::{
    Attributes, Decision, Effect, KeyPolicy, Kind, Outcome, Policy, Question, Reason, Relation, Request, Step, Subject,
};
use kmsfs::kms::{Engine, blob, policy};
use kmsfs::types::{DirId, KeyArn, VolumeId};

/// A target's name and what it does.
pub type Target = (&'static str, fn(&[u8]) -> bool);

/// All targets.
pub const TARGETS: &[Target] = &[
    ("header", header),
    ("slot", slot),
    ("volume_file", volume_file),
    ("dir_id", dir_id),
    ("name", name),
    ("symlink", symlink),
    ("xattr", xattr),
    ("root_file", root_file),
    ("recovery_key", recovery_key),
    ("bundle", bundle),
    ("blob", blob),
    ("authorization", authorization),
    ("policy", policy),
    ("api", api),
    ("ops", ops),
    ("fuse", fuse),
    ("branch", branch),
    ("damage", damage),
    ("freshness", freshness),
    ("verify_notes", verify_notes),
    ("crash", crash),
    ("home", home),
    ("audit", audit),
    ("http", http),
    ("remote", remote),
    ("control", control),
    ("config", config),
    ("credentials", credentials),
];

/// The volume that the corpus belongs to.
pub const VOLUME: VolumeId = VolumeId::from_bytes([5; 16]);
/// The directory that its names stand in.
pub const DIR: DirId = DirId::from_bytes([9; 16]);
/// The key that its files are wrapped by.
pub const KEY: &str = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";

/// The volume's root key.
pub fn root_key() -> SecretKey<32> {
    SecretKey::from_slice(&[8; 32]).expect("32 bytes")
}

/// The data key of every file.
pub fn data_key() -> SecretKey<32> {
    SecretKey::from_slice(&[6; 32]).expect("32 bytes")
}

/// The volume's keys.
pub fn keys() -> Arc<VolumeKeys> {
    static KEYS: OnceLock<Arc<VolumeKeys>> = OnceLock::new();
    KEYS.get_or_init(|| Arc::new(VolumeKeys::derive(Backend::default(), &root_key(), VOLUME))).clone()
}

/// The front of a file.
pub fn header(data: &[u8]) -> bool {
    let info = HeaderInfo::parse(data);
    let keys = keys();
    let key: KeyArn = KEY.parse().expect("an ARN");
    let allowed: AllowList = [key].into_iter().collect();
    let geometry = Geometry::P1;
    let policy =
        HeaderPolicy { volume_id: VOLUME, geometry, keys: &keys, allowed: &allowed, aead_ids: IMPLEMENTED_AEADS };
    let Ok(opened) = header::open_header(data, &policy, &mut |_, _| Ok(data_key())) else { return false };
    let info = info.expect("what opens with keys can be scanned without");
    assert_eq!(info.header, opened.header);
    assert_eq!(info.slots.len(), opened.valid_slots);
    if let Some(patch) = header::finish_rewrap(data, &opened) {
        let mut finished = data.to_vec();
        patch.apply(&mut finished);
        let again = header::open_header(&finished, &policy, &mut |_, _| Ok(data_key())).expect("the newer slot opened");
        assert_eq!((again.valid_slots, again.record), (1, opened.record));
    }
    true
}

/// One recipient slot.
pub fn slot(data: &[u8]) -> bool {
    let Some(slot) = parse_slot(Place::A, data) else { return false };
    if data.len() == Geometry::P1.slot_len() {
        assert_eq!(build_slot(slot.generation, &slot.recipients, Geometry::P1).as_deref(), Ok(data));
    }
    true
}

/// A volume file.
pub fn volume_file(data: &[u8]) -> bool {
    let Ok(file) = VolumeFile::parse(data) else { return false };
    let row = file.row_if_trusted();
    let id = file.config().volume_id;
    let Ok(opened) = file.open(Backend::default(), Some(&row), &mut |_, _, _| Ok(root_key())) else { return false };
    assert_eq!(opened.config.volume_id, id);
    true
}

/// A version of a branch key in a volume file.
pub fn branch(data: &[u8]) -> bool {
    let Ok(version) = BranchVersion::parse(data) else { return false };
    assert_eq!(version.encode().as_deref(), Ok(data));
    true
}

/// The text of a directory id.
pub fn dir_id(data: &[u8]) -> bool {
    let Ok(id) = dirid::decode(&keys(), Found::Text(data)) else { return false };
    assert_eq!(dirid::encode(&keys(), id).as_bytes(), data);
    true
}

/// An entry and, behind a line feed, its side entry. Recovers a directory id from it too.
pub fn name(data: &[u8]) -> bool {
    let mut lines = data.splitn(2, |&b| b == b'\n');
    let (entry, side) = (lines.next().unwrap_or_default(), lines.next());
    let plain = NameCodec::new(keys(), NameForm::Plain, NameForm::Plain.short_max());
    name_of(&plain, data, entry, side);
    name_of(&NameCodec::new(keys(), NameForm::Encrypted, NameForm::Encrypted.short_max()), data, entry, side)
}

fn name_of(codec: &NameCodec, data: &[u8], entry: &[u8], side: Option<&[u8]>) -> bool {
    if let Ok((id, name)) = dirid::recover(codec, entry, side) {
        assert!(!id.is_zero() && !name.is_empty());
    }
    // As a plaintext name, the input comes back.
    if let Ok(encoded) = codec.encode(DIR, data) {
        let back = codec.decode(DIR, encoded.entry().as_bytes(), encoded.side().map(str::as_bytes));
        assert_eq!(back.as_deref(), Ok(data));
    }
    let Ok(name) = codec.decode(DIR, entry, side) else { return false };
    let encoded = codec.encode(DIR, &name).expect("a name that decodes is valid");
    assert_eq!(encoded.entry().as_bytes(), entry);
    true
}

/// The target of a symlink.
pub fn symlink(data: &[u8]) -> bool {
    let keys = keys();
    if let Ok(text) = symlink::encode(&keys, data, &[1; 24]) {
        assert_eq!(symlink::decode(&keys, text.as_bytes()).as_deref(), Ok(data));
    }
    symlink::decode(&keys, data).is_ok()
}

/// The name of an attribute and, behind a line feed, its value.
pub fn xattr(data: &[u8]) -> bool {
    let keys = keys();
    let mut lines = data.splitn(2, |&b| b == b'\n');
    let (disk, value) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    if let Ok(encoded) = xattr::encode_name(&keys, disk) {
        let stored = xattr::encode_value(&keys, disk, value, &[1; 24]);
        if xattr::is_long(&encoded) {
            assert_eq!(xattr::decode_long(&keys, &encoded, &stored).expect("what was sealed opens").0, disk);
        } else {
            assert_eq!(xattr::decode_name(&keys, encoded.as_bytes()).as_deref(), Ok(disk));
        }
        let back = xattr::decode_value(&keys, disk, &stored).expect("what was sealed opens");
        assert_eq!(back.as_slice(), value);
    }
    if let Ok(disk) = std::str::from_utf8(disk)
        && xattr::is_long(disk)
    {
        let Ok((name, _)) = xattr::decode_long(&keys, disk, value) else { return false };
        assert_eq!(xattr::encode_name(&keys, &name).expect("a name that decodes is valid"), disk);
        return true;
    }
    let Ok(name) = xattr::decode_name(&keys, disk) else { return false };
    assert_eq!(xattr::encode_name(&keys, &name).expect("a name that decodes is valid").as_bytes(), disk);
    xattr::decode_value(&keys, &name, value).is_ok()
}

/// The root file of a key manager's home, as it is read before anything is unlocked.
pub fn root_file(data: &[u8]) -> bool {
    let home = temporary();
    std::fs::write(home.path().join("root.json"), data).expect("a root file");
    // Only its presence matters here.
    std::fs::write(home.path().join("kms.db"), []).expect("a database");
    Home::list_slots(home.path()).is_ok()
}

/// A recovery key as it is typed.
pub fn recovery_key(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let Ok(key) = RecoveryKey::parse(text) else { return false };
    let again = RecoveryKey::parse(&key.to_text()).expect("what is shown can be read");
    assert_eq!(*again.to_text(), *key.to_text());
    true
}

/// A recovery bundle, as far as it is read before its recovery key is asked for.
pub fn bundle(data: &[u8]) -> bool {
    Bundle::parse(data).is_ok()
}

/// What a ciphertext blob says of itself.
pub fn blob(data: &[u8]) -> bool {
    let Some(header) = blob::Header::parse(data) else { return false };
    assert!(data.len() > blob::OVERHEAD);
    let name = blob::KeyName::parse(&header.key_id_text()).unwrap();
    assert_eq!(header.key(), name);
    let again = blob::Header { in_token: header.in_token, ..blob::Header::new(name, header.material_id) };
    assert_eq!(again, header);
    blob::material_id(data).is_some()
}

/// The `Authorization` header of a signed request.
pub fn authorization(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let Ok(parsed) = kmsfs::server::parse_authorization(text) else { return false };
    assert_eq!(parsed.signature.len(), 64);
    assert!(parsed.signed_headers.is_sorted_by(|a, b| a < b));
    let [date, region, service] = parsed.scope;
    let (id, signed) = (parsed.access_key_id, parsed.signed_headers.join(";"));
    let written = format!(
        "AWS4-HMAC-SHA256 Credential={id}/{date}/{region}/{service}/aws4_request, SignedHeaders={signed}, Signature={}",
        parsed.signature
    );
    assert_eq!(kmsfs::server::parse_authorization(&written).expect("what was read can be read again"), parsed);
    true
}

/// A request, a key policy and identity policies, with a zero byte between them. The first line of the request is the
/// principal, the action and the resource; each other one a condition key and its value.
pub fn policy(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let mut parts = text.split('\0');
    let mut lines = parts.next().unwrap_or_default().lines();
    let [principal, action, resource] =
        lines.next().unwrap_or_default().split(' ').collect::<Vec<_>>().try_into().unwrap_or_default();
    let Ok(principal) = principal.parse::<Principal>() else { return false };
    let pairs = lines.filter_map(|line| line.split_once(' '));
    let attributes = Pairs(pairs.map(|(key, value)| (key.to_lowercase(), value)).collect());
    let Ok(key) = Policy::parse(parts.next().unwrap_or_default(), Kind::Key) else { return false };
    let Ok(identity) = parts.map(|text| Policy::parse(text, Kind::Identity)).collect::<Result<Vec<_>, _>>() else {
        return false;
    };
    let request = Request { principal: &principal, action, resource, attributes: &attributes };
    let decide = |identity: &[&Policy], observe: Option<&mut dyn FnMut(&Step<'_>)>| {
        let identity: Vec<(&str, &Policy)> = identity.iter().map(|policy| ("p", *policy)).collect();
        let key = Some(KeyPolicy { owner: "111122223333", policy: &key, grants: &Vec::new });
        policy::decide(&Question { request: &request, key, identity: &identity }, observe)
    };
    let mut identity: Vec<&Policy> = identity.iter().collect();
    let (mut denies, mut judged) = (false, 0);
    let decision = decide(&identity, None);
    let mut observe = |step: &Step<'_>| {
        judged += 1;
        if let (
            Subject::KeyPolicy(_, statement) | Subject::IdentityPolicy(_, _, statement),
            Outcome::Statement(Relation::Applies(_)),
        ) = (&step.subject, &step.outcome)
        {
            denies |= statement.effect == Effect::Deny;
        }
    };
    let explained = decide(&identity, Some(&mut observe));
    let is_denied = |decision: &Decision| matches!(decision, Decision::Denied(reason) if reason.is_explicit());
    // But whoever may have it explained is told which statement denies what is hidden from a caller.
    let is_told = decision == Decision::Denied(Reason::DeniesUnseen) && is_denied(&explained);
    assert!(explained == decision || is_told, "explaining changes nothing");
    assert_eq!(judged, identity.iter().chain([&&key]).map(|policy| policy.statements.len()).sum::<usize>());
    assert_eq!(is_denied(&decision), denies, "a Deny that applies, and nothing else, is an explicit denial");
    // More permission never takes any away, and a denial always does.
    let parse = |text: &str| Policy::parse(text, Kind::Identity).expect("a policy");
    let all = parse(policy::ADMINISTRATOR_ACCESS.1);
    identity.push(&all);
    let permitted = decide(&identity, None);
    let allowed = Decision::Allowed { grant: None };
    assert!(permitted == allowed || decision != allowed);
    let none = parse(r#"{"Statement":{"Effect":"Deny","Action":"*","Resource":"*"}}"#);
    identity.push(&none);
    assert!(is_denied(&decide(&identity, None)));
    true
}

/// Condition keys in lower case with their values.
struct Pairs<'a>(Vec<(String, &'a str)>);

impl Attributes for Pairs<'_> {
    fn values(&self, key: &str) -> Vec<std::borrow::Cow<'_, str>> {
        self.0.iter().filter(|(name, _)| name == key).map(|(_, value)| (*value).into()).collect()
    }
}

/// A key manager of its own for each thread.
struct Manager {
    engine: Engine,
    caller: Caller,
    /// Last, so that the engine has closed before its home goes.
    home: tempfile::TempDir,
}

/// A directory in memory, where there is one.
fn temporary() -> tempfile::TempDir {
    let memory = std::path::Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.expect("a directory")
}

thread_local! {
    static MANAGER: Manager = {
        let home = temporary();
        let (clock, entropy) = (Arc::new(SystemClock), Arc::new(SystemEntropy));
        let new = NewHome::with_slots(vec![NewSlot::KeyFile]);
        let (unlocked, _) = Home::create(&home.path().join("kms"), new, &*clock, &*entropy).expect("a home");
        let engine = Engine::start(unlocked, clock, entropy).expect("an engine");
        let caller = engine.local_caller("fuzz");
        Manager { engine, caller, home }
    };
}

/// A request of AWS's JSON: the name of an operation, a line end, the body.
pub fn api(data: &[u8]) -> bool {
    let Some(at) = data.iter().position(|byte| *byte == b'\n') else { return false };
    let Ok(name) = std::str::from_utf8(&data[..at]) else { return false };
    MANAGER.with(|manager| match manager.engine.execute(&manager.caller, name, &data[at + 1..]) {
        Ok(answer) => {
            let json = answer.as_bytes();
            assert!(json.is_empty() || json.starts_with(b"{") && json.ends_with(b"}"));
            true
        }
        Err(error) => {
            assert_ne!(error.code(), "KMSInternalException", "{error}");
            false
        }
    })
}

/// What a generator makes of up to 32 bytes, which take the place of its randomness.
fn choose<S: proptest::strategy::Strategy>(strategy: &S, choice: &[u8]) -> S::Value {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
    let mut seed = [0; 32];
    seed[..choice.len()].copy_from_slice(choice);
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    strategy.new_tree(&mut runner).expect("nothing is rejected").current()
}

/// Operations on a volume in memory, compared with a plain tree. Every eight bytes of the input choose one operation
/// of the model test's generator.
pub fn ops(data: &[u8]) -> bool {
    let strategy = crate::model::ops::op();
    let ops: Vec<_> = data.chunks(8).take(200).map(|choice| choose(&strategy, choice)).collect();
    crate::model::run::compare_with_model(&ops, true, NameForm::Encrypted).unwrap_or_else(|e| panic!("{e}"));
    !ops.is_empty()
}

/// Requests of a kernel, one behind the other: each is answered at most once, with bytes that say their own length.
pub fn fuse(data: &[u8]) -> bool {
    use kmsfs::env::ManualClock;
    use kmsfs::store::{Memory, MemoryOptions};
    use kmsfs::types::Timestamp;
    let clock = Arc::new(ManualClock::new(Timestamp::from_secs(1_700_000_000)));
    let options = MemoryOptions { capacity_pages: 4096, ..MemoryOptions::default() };
    let fixture = crate::fixture::Fixture::new(Memory::with_options(clock.clone(), options), clock);
    let dispatcher = kmsfs::fuse::Dispatcher::new(Arc::new(fixture.mount()), false);
    let (mut rest, mut served) = (data, 0);
    while let Some(len) = rest.first_chunk().map(|len| u32::from_ne_bytes(*len) as usize) {
        let (request, others) = rest.split_at(len.clamp(4, rest.len()));
        rest = others;
        let mut answers = Answers::default();
        dispatcher.handle(request, &mut Vec::new(), &mut answers);
        match &answers.0[..] {
            [] => {}
            [answer] => {
                assert_eq!(u32::from_ne_bytes(*answer.first_chunk().expect("a header")) as usize, answer.len());
                if answer[4..8] != [0; 4] {
                    return false;
                }
            }
            more => panic!("{} answers to one request", more.len()),
        }
        served += 1;
    }
    served > 0 && rest.is_empty()
}

/// The answers to one request.
#[derive(Default)]
struct Answers(Vec<Vec<u8>>);

impl kmsfs::fuse::Sink for Answers {
    fn send(&mut self, parts: &[std::io::IoSlice<'_>]) -> std::io::Result<()> {
        self.0.push(parts.iter().flat_map(|part| part.iter().copied()).collect());
        Ok(())
    }
}
