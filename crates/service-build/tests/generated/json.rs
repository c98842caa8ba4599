//! Protobuf bytes and JSON of every kind of field.

use std::collections::BTreeMap;
use std::fmt::Debug;

use protox::prost::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::containers::Containers;
use crate::containers::containers::Choice;
use crate::every_type::Everything;
use crate::every_type::everything::{Color, Inner};

/// Checks that `message` is written as `json` and read back from it, and survives its bytes.
#[track_caller]
fn check<T>(message: &T, json: &str)
where
    T: Message + Default + PartialEq + Debug + Serialize + DeserializeOwned,
{
    assert_eq!(serde_json::to_string(message).expect("it has JSON"), json);
    assert_eq!(
        serde_json::from_str::<T>(json).expect("JSON of it"),
        *message
    );
    assert_eq!(
        T::decode(message.encode_to_vec().as_slice()).expect("bytes of it"),
        *message
    );
}

/// The error of reading an `Everything` from `json`.
#[track_caller]
fn refusal(json: &str) -> String {
    serde_json::from_str::<Everything>(json)
        .expect_err("no JSON of it")
        .to_string()
}

#[test]
fn default_values_are_left_out() {
    check(&Everything::default(), "{}");
}

#[test]
fn integers_of_64_bits_are_strings_and_others_are_numbers() {
    let message = Everything {
        an_int32: i32::MIN,
        an_int64: i64::MIN,
        a_uint32: u32::MAX,
        a_uint64: u64::MAX,
        a_sint64: -1,
        a_fixed64: 1 << 53,
        a_bool: true,
        ..Everything::default()
    };
    let json = concat!(
        r#"{"anInt32":-2147483648,"anInt64":"-9223372036854775808","aUint32":4294967295,"#,
        r#""aUint64":"18446744073709551615","aSint64":"-1","aFixed64":"9007199254740992","#,
        r#""aBool":true}"#
    );
    check(&message, json);
}

#[test]
fn numbers_are_read_from_both_forms_and_fields_from_both_names() {
    let message = Everything {
        an_int32: 5,
        an_int64: 6,
        ..Everything::default()
    };
    let read = |json| serde_json::from_str::<Everything>(json).unwrap();
    assert_eq!(read(r#"{"an_int32":"5","an_int64":6}"#), message);
    assert_eq!(read(r#"{"anInt32":5,"anInt64":"6"}"#), message);
}

#[test]
fn floats_strings_and_bytes() {
    let message = Everything {
        a_double: 1.5,
        a_float: -0.25,
        a_string: "\"quoted\" \u{9a7f}".to_owned(),
        some_bytes: vec![0, 0xfb, 0xff],
        ..Everything::default()
    };
    check(
        &message,
        "{\"aDouble\":1.5,\"aFloat\":-0.25,\"aString\":\"\\\"quoted\\\" \u{9a7f}\",\"someBytes\":\"APv/\"}",
    );
    let url_safe = serde_json::from_str::<Everything>(r#"{"someBytes":"APv_"}"#).unwrap();
    assert_eq!(url_safe.some_bytes, message.some_bytes);
}

#[test]
fn enums_are_names_and_are_read_from_numbers_too() {
    let message = Everything {
        color: Color::Green as i32,
        ..Everything::default()
    };
    check(&message, r#"{"color":"COLOR_GREEN"}"#);
    let from_number = serde_json::from_str::<Everything>(r#"{"color":2}"#).unwrap();
    assert_eq!(from_number, message);
}

#[test]
fn optional_fields_tell_absent_from_default() {
    let message = Everything {
        maybe_int64: Some(0),
        maybe_string: Some(String::new()),
        maybe_bytes: Some(Vec::new()),
        maybe_color: Some(Color::None as i32),
        ..Everything::default()
    };
    check(
        &message,
        r#"{"maybeInt64":"0","maybeString":"","maybeBytes":"","maybeColor":"COLOR_NONE"}"#,
    );
    let nulls = r#"{"maybeInt64":null,"maybeString":null,"maybeColor":null,"inner":null}"#;
    assert_eq!(
        serde_json::from_str::<Everything>(nulls).unwrap(),
        Everything::default()
    );
}

#[test]
fn repeated_fields_are_arrays() {
    let message = Containers {
        int64s: vec![1, -2],
        strings: vec!["a".to_owned(), String::new()],
        blobs: vec![vec![1], Vec::new()],
        colors: vec![Color::Red as i32, Color::None as i32],
        inners: vec![Inner { value: 1 }, Inner::default()],
        ..Containers::default()
    };
    let json = concat!(
        r#"{"int64s":["1","-2"],"strings":["a",""],"blobs":["AQ==",""],"#,
        r#""colors":["COLOR_RED","COLOR_NONE"],"inners":[{"value":1},{}]}"#
    );
    check(&message, json);
}

#[test]
fn maps_are_objects_in_the_order_of_their_keys() {
    let text = |text: &str| text.to_owned();
    let message = Containers {
        counts: BTreeMap::from([
            (text("b"), 2),
            (text("a"), 1),
            (text("c"), 3),
            (text("d"), 0),
        ]),
        names: BTreeMap::from([(-1, text("minus one")), (10, text("ten"))]),
        blob_of: BTreeMap::from([(text("y"), vec![2]), (text("x"), vec![1])]),
        color_of: BTreeMap::from([(2, Color::Green as i32), (1, Color::Red as i32)]),
        inner_of: BTreeMap::from([(true, Inner { value: 1 }), (false, Inner::default())]),
        ..Containers::default()
    };
    let json = concat!(
        r#"{"counts":{"a":"1","b":"2","c":"3","d":"0"},"names":{"-1":"minus one","10":"ten"},"#,
        r#""blobOf":{"x":"AQ==","y":"Ag=="},"colorOf":{"1":"COLOR_RED","2":"COLOR_GREEN"},"#,
        r#""innerOf":{"false":{},"true":{"value":1}}}"#
    );
    check(&message, json);
}

#[test]
fn each_member_of_a_oneof() {
    let of = |choice| Containers {
        choice: Some(choice),
        ..Containers::default()
    };
    check(&of(Choice::ChoiceNumber(0)), r#"{"choiceNumber":"0"}"#);
    check(
        &of(Choice::ChoiceText("t".to_owned())),
        r#"{"choiceText":"t"}"#,
    );
    check(&of(Choice::ChoiceBlob(vec![1])), r#"{"choiceBlob":"AQ=="}"#);
    check(
        &of(Choice::ChoiceColor(Color::Red as i32)),
        r#"{"choiceColor":"COLOR_RED"}"#,
    );
    check(
        &of(Choice::ChoiceInner(Inner { value: 3 })),
        r#"{"choiceInner":{"value":3}}"#,
    );
}

#[test]
fn keywords_chosen_names_and_nested_messages() {
    #[allow(
        deprecated,
        reason = "the field is deprecated to see that it still works"
    )]
    let message = Everything {
        r#type: "t".to_owned(),
        renamed: "r".to_owned(),
        old: "o".to_owned(),
        child: Some(Box::new(Everything {
            inner: Some(Inner { value: -1 }),
            ..Everything::default()
        })),
        ..Everything::default()
    };
    let json = concat!(
        r#"{"type":"t","::pbjson::private":"r","old":"o","#,
        r#""child":{"inner":{"value":-1}}}"#
    );
    check(&message, json);
}

#[test]
fn what_is_not_json_of_the_message_is_refused() {
    assert!(refusal(r#"{"nope":1}"#).starts_with("unknown field `nope`"));
    assert!(refusal(r#"{"aBool":true,"aBool":true}"#).starts_with("duplicate field `aBool`"));
    let two_choices = r#"{"choiceText":"t","choiceNumber":"1"}"#;
    let error = serde_json::from_str::<Containers>(two_choices).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("duplicate field `choiceNumber`")
    );
    assert!(refusal(r#"{"color":"COLOR_BLUE"}"#).starts_with("unknown variant `COLOR_BLUE`"));
    assert!(refusal(r#"{"anInt64":"9223372036854775808"}"#).starts_with("number too large"));
    assert!(refusal(r#"{"someBytes":"*"}"#).starts_with("Invalid symbol 42"));
}

/// The documented differences from the protobuf JSON mapping: a change here is a change of the
/// documentation.
#[test]
fn known_differences_from_the_mapping() {
    assert!(refusal(r#"{"aString":null}"#).starts_with("invalid type: null"));

    let unknown_color = Everything {
        color: 99,
        ..Everything::default()
    };
    assert!(serde_json::to_string(&unknown_color).is_err());

    let not_a_number = Everything {
        a_double: f64::NAN,
        ..Everything::default()
    };
    assert_eq!(
        serde_json::to_string(&not_a_number).unwrap(),
        r#"{"aDouble":null}"#
    );
    let read = serde_json::from_str::<Everything>(r#"{"aDouble":"NaN"}"#).unwrap();
    assert!(read.a_double.is_nan());
}
