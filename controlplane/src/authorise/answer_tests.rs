//! Answers: what is right is taken whole, what is wrong is named, and no secret is shown.

use linegate_wire::time::Instant;

use super::*;

const PSK: &str = "CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=";

fn now() -> Now {
    Now { mono: Instant::from_nanos(5_000_000_000), wall: Duration::from_secs(1_700_000_000) }
}

fn verdict(json: &str) -> Result<Verdict, AnswerError> {
    Document::from_json(json.as_bytes())?.verdict(None, now())
}

fn prefix_of(text: &str) -> Prefix {
    let (address, len) = prefix(text).unwrap();
    Prefix::new(address, len).unwrap()
}

#[test]
fn everything_that_can_be_said_is_understood() {
    let json = format!(
        r#"{{"allow": true, "name": "branch 17", "preshared_key": "{PSK}", "persistent_keepalive": 25, "group": "guests",
            "allowed_ips": ["10.60.17.9/24", "fd00:60:17::/64", "192.0.2.7"], "lifetime_seconds": 60,
            "remember_seconds": 3600}}"#
    );
    let expected = Grant {
        name: Some("branch 17".into()),
        preshared_key: Some([9; 32].into()),
        allowed_ips: ["10.60.17.0/24", "fd00:60:17::/64", "192.0.2.7/32"].map(prefix_of).to_vec(),
        persistent_keepalive: 25,
        group: Some("guests".into()),
        expiry: Some(Expiry { at: now().mono + Duration::from_secs(60), unix: Duration::from_secs(1_700_000_060) }),
    };
    let remember = Some(Duration::from_secs(3600));
    assert_eq!(verdict(&json), Ok(Verdict::Allow { grant: expected, remember }));
    let no = r#"{"allow": false, "reason": "not paid", "remember_seconds": 0}"#;
    let refuse = Verdict::Refuse { reason: Some("not paid".into()), remember: Some(Duration::ZERO) };
    assert_eq!(verdict(no), Ok(refuse));
    let least = verdict(r#"{"allow": true, "allowed_ips": []}"#);
    assert_eq!(least, Ok(Verdict::Allow { grant: Grant::default(), remember: None }));
}

#[test]
fn a_moment_is_as_good_as_a_lifetime_and_one_that_is_over_is_a_no() {
    let at = |seconds: u64| verdict(&format!(r#"{{"allow":true,"allowed_ips":[],"expires_unix_seconds":{seconds}}}"#));
    let Ok(Verdict::Allow { grant, .. }) = at(1_700_000_030) else { panic!("a no") };
    assert_eq!(grant.expiry.unwrap().at, now().mono + Duration::from_secs(30));
    for over in [0, 1_699_999_999, 1_700_000_000] {
        assert!(matches!(at(over), Ok(Verdict::Refuse { .. })), "{over}");
    }
    assert!(matches!(at(300_000_000_000), Ok(Verdict::Allow { .. })), "far away, and nothing overflows");
    assert!(at(1_700_000_000_000).unwrap_err().to_string().contains("since 1970"), "milliseconds");
}

#[test]
fn mistakes_are_named_and_secrets_are_not_shown() {
    let many = format!(r#"{{"allow":true,"allowed_ips":[{}]}}"#, vec![r#""10.0.0.1""#; 257].join(","));
    let long = format!(r#"{{"allow":false,"reason":"{}"}}"#, "x".repeat(129));
    let misplaced = [
        format!(r#"{{"allow":true,"allowed_ips":["{PSK}"]}}"#),
        format!(r#"{{"allow":true,"allowed_ips":[],"persistent_keepalive":"{PSK}"}}"#),
        format!(r#"{{"allow":true,"allowed_ips":[],"{PSK}":1}}"#),
        format!(r#"{{"allow":"{PSK}"}}"#),
        format!(r#"{{"allow":true,"allowed_ips":"{PSK}"}}"#),
    ];
    let table = [
        ("", "not JSON"),
        ("<html>", "not JSON"),
        (r#"{"allow": true"#, "not JSON"),
        ("true", "the answer: found true or false, expected an object"),
        ("[]", "found a list"),
        ("{}", "allow: found nothing"),
        (r#"{"allow": 1}"#, "allow: found a number, expected true or false"),
        (r#"{"allow": null}"#, "allow: found null"),
        (r#"{"allow": true}"#, "allowed_ips: found nothing, expected a list of prefixes"),
        (r#"{"allow":true,"allowed_ips":{}}"#, "allowed_ips: found an object"),
        (r#"{"allow":true,"allowed_ips":["10.0.0.0/33"]}"#, "\"10.0.0.0/33\""),
        (r#"{"allow":true,"allowed_ips":[7]}"#, "allowed_ips: found a number"),
        (many.as_str(), "257 items"),
        (r#"{"allow":true,"allowed_ips":[],"preshared_key":"short"}"#, "wg genpsk"),
        (r#"{"allow":true,"allowed_ips":[],"preshared_key":7}"#, "preshared_key: found a number"),
        (r#"{"allow":true,"allowed_ips":[],"persistent_keepalive":65536}"#, "found 65536, expected 0 (off) to 65535"),
        (r#"{"allow":true,"allowed_ips":[],"persistent_keepalive":-1}"#, "found -1"),
        (r#"{"allow":true,"allowed_ips":[],"lifetime_seconds":1.5}"#, "found 1.5"),
        (r#"{"allow":true,"allowed_ips":[],"lifetime_seconds":604801}"#, "a week"),
        (r#"{"allow":true,"allowed_ips":[],"lifetime_seconds":1,"expires_unix_seconds":1}"#, "only one of both"),
        (r#"{"allow":true,"allowed_ips":[],"expires_unix_seconds":"soon"}"#, "found a string"),
        (r#"{"allow":false,"remember_seconds":"long"}"#, "remember_seconds: found a string"),
        (r#"{"allow":false,"reason":"two\nlines"}"#, "control characters"),
        (long.as_str(), "at most 128"),
        (r#"{"allow":true,"allowedips":[]}"#, "found \"allowedips\", expected allow, reason, name"),
    ];
    for (json, hint) in table {
        let error = verdict(json).unwrap_err().to_string();
        assert!(error.contains(hint), "{json}: {error}");
    }
    for json in misplaced {
        let error = verdict(&json).unwrap_err().to_string();
        assert!(!error.contains(&PSK[..20]), "{json}: {error}");
    }
    let deep = "[".repeat(100_000);
    assert!(verdict(&deep).unwrap_err().to_string().contains("not JSON"), "and the stack is still there");
}

mod random_input {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_an_answer_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(document) = Document::from_json(&bytes) {
                let _ = document.verdict(None, now());
            }
        }

        #[test]
        fn any_fields_are_an_answer_or_an_error(
            field in prop::sample::select(FIELDS.to_vec()),
            value in prop_oneof![
                any::<i64>().prop_map(Value::from),
                any::<u64>().prop_map(Value::from),
                any::<f64>().prop_map(Value::from),
                ".{0,40}".prop_map(Value::from),
                prop::collection::vec(".{0,20}", 0..3).prop_map(Value::from),
            ],
        ) {
            let mut fields = Map::from_iter([("allow".to_owned(), Value::from(true))]);
            fields.insert("allowed_ips".into(), Value::Array(Vec::new()));
            fields.insert(field.into(), value);
            let _ = Document(Value::Object(fields)).verdict(None, now());
        }
    }
}
