//! The directory: files that come, change, go and are broken while it is in use.

use linegate_wire::time::Instant;

use super::*;

const PSK: &str = "CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=";

/// Its base64 has a slash and a plus: `+/v7+/...`.
fn key() -> PublicKey {
    PublicKey::from_bytes([0xfb; 32])
}

fn now() -> Now {
    Now { mono: Instant::from_nanos(1), wall: std::time::Duration::from_secs(1_700_000_000) }
}

fn prefixes(verdict: Option<Verdict>) -> Option<Vec<String>> {
    match verdict? {
        Verdict::Allow { grant, .. } => Some(grant.allowed_ips.iter().map(ToString::to_string).collect()),
        Verdict::Refuse { .. } => Some(Vec::new()),
    }
}

#[test]
fn a_folder_is_read_anew_for_everybody_who_comes() {
    let folder = tempfile::tempdir().unwrap();
    let directory = Directory::new(folder.path().to_owned());
    let look_up = || directory.look_up(&key(), now());
    assert_eq!(look_up().unwrap(), None);
    let file = folder.path().join("-_v7-_v7-_v7-_v7-_v7-_v7-_v7-_v7-_v7-_v7-_s=.toml");
    fs::write(&file, "allowed_ips = [\"10.1.0.0/16\"]\n").unwrap();
    assert_eq!(prefixes(look_up().unwrap()), Some(vec!["10.1.0.0/16".into()]));
    fs::write(&file, "allowed_ips = [\"10.2.0.0/16\"]\n").unwrap();
    assert_eq!(prefixes(look_up().unwrap()), Some(vec!["10.2.0.0/16".into()]));
    fs::write(&file, "allow = false\nreason = \"stolen\"\n").unwrap();
    assert!(matches!(look_up().unwrap(), Some(Verdict::Refuse { .. })));
    fs::write(&file, format!("preshared_key = \"{PSK}\"\nallowed_ips = 3\n")).unwrap();
    let error = look_up().unwrap_err().to_string();
    assert!(error.contains("allowed_ips: found a number") && error.contains("-_v7"), "{error}");
    fs::remove_file(&file).unwrap();
    assert_eq!(look_up().unwrap(), None);
    fs::create_dir(&file).unwrap();
    assert!(look_up().unwrap_err().to_string().contains("not a file"));
}

#[test]
fn mistakes_in_toml_are_shown_by_line_and_without_what_stands_there() {
    let folder = tempfile::tempdir().unwrap();
    let directory = Directory::new(folder.path().to_owned());
    let file = folder.path().join("-_v7-_v7-_v7-_v7-_v7-_v7-_v7-_v7-_v7-_v7-_s=.toml");
    for broken in [
        format!("allowed_ips = []\npreshared_key = {PSK}\n"),
        format!("allowed_ips = []\npreshared_key = \"{PSK}\n"),
        format!("allowed_ips = []\n{PSK}\n"),
        format!("allowed_ips = []\npreshared_key = \"{PSK}\" \"{PSK}\"\n"),
    ] {
        fs::write(&file, &broken).unwrap();
        let error = directory.look_up(&key(), now()).unwrap_err().to_string();
        assert!(error.contains("s=.toml:2:") && !error.contains(&PSK[..20]), "{broken}: {error}");
    }
    fs::write(&file, "#".repeat(70_000)).unwrap();
    assert!(directory.look_up(&key(), now()).unwrap_err().to_string().contains("larger than 65536"));
    fs::write(&file, [0xff, 0xfe]).unwrap();
    assert!(directory.look_up(&key(), now()).unwrap_err().to_string().contains("UTF-8"));
}

#[test]
fn a_file_with_all_keys_is_read_again_once_it_is_another() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("peers.toml");
    let directory = Directory::new(path.clone());
    let look_up = || directory.look_up(&key(), now());
    assert!(look_up().unwrap_err().to_string().contains("peers.toml"), "it is not there yet");
    let name = BASE64_STANDARD.encode(key().as_bytes());
    let text = |prefix: &str| format!("[\"{PSK}\"]\nallow = false\n[\"{name}\"]\nallowed_ips = [\"{prefix}\"]\n");
    fs::write(&path, text("10.1.0.0/16")).unwrap();
    assert_eq!(prefixes(look_up().unwrap()), Some(vec!["10.1.0.0/16".into()]));
    // As editors do: another file takes the name.
    fs::write(folder.path().join("new"), text("10.2.0.0/16")).unwrap();
    fs::rename(folder.path().join("new"), &path).unwrap();
    assert_eq!(prefixes(look_up().unwrap()), Some(vec!["10.2.0.0/16".into()]));
    fs::write(&path, "nothing of this kind").unwrap();
    assert!(look_up().unwrap_err().to_string().contains("peers.toml:1:"));
    fs::write(&path, "").unwrap();
    assert_eq!(look_up().unwrap(), None);
}
