// Generated from the protobuf package `every_type`. Do not edit.

/// One field of each type that protobuf has.
#[derive(Clone, PartialEq, ::waystation_service::codegen::prost::Message)]
#[prost(prost_path = "::waystation_service::codegen::prost")]
pub struct Everything {
    /// Field `a_double`, number 1.
    #[prost(double, tag = "1")]
    pub a_double: f64,
    /// Field `a_float`, number 2.
    #[prost(float, tag = "2")]
    pub a_float: f32,
    /// Field `an_int32`, number 3.
    #[prost(int32, tag = "3")]
    pub an_int32: i32,
    /// Field `an_int64`, number 4.
    #[prost(int64, tag = "4")]
    pub an_int64: i64,
    /// Field `a_uint32`, number 5.
    #[prost(uint32, tag = "5")]
    pub a_uint32: u32,
    /// Field `a_uint64`, number 6.
    #[prost(uint64, tag = "6")]
    pub a_uint64: u64,
    /// Field `a_sint64`, number 7.
    #[prost(sint64, tag = "7")]
    pub a_sint64: i64,
    /// Field `a_fixed64`, number 8.
    #[prost(fixed64, tag = "8")]
    pub a_fixed64: u64,
    /// Field `a_bool`, number 9.
    #[prost(bool, tag = "9")]
    pub a_bool: bool,
    /// Field `a_string`, number 10.
    #[prost(string, tag = "10")]
    pub a_string: ::waystation_service::codegen::prost::alloc::string::String,
    /// Field `some_bytes`, number 11.
    #[prost(bytes = "vec", tag = "11")]
    pub some_bytes: ::waystation_service::codegen::prost::alloc::vec::Vec<u8>,
    /// Field `color`, number 12.
    #[prost(enumeration = "everything::Color", tag = "12")]
    pub color: i32,
    /// Field `inner`, number 13.
    #[prost(message, optional, tag = "13")]
    pub inner: ::core::option::Option<everything::Inner>,
    /// Field `maybe_int64`, number 20.
    #[prost(int64, optional, tag = "20")]
    pub maybe_int64: ::core::option::Option<i64>,
    /// Field `maybe_string`, number 21.
    #[prost(string, optional, tag = "21")]
    pub maybe_string: ::core::option::Option<::waystation_service::codegen::prost::alloc::string::String>,
    /// Field `maybe_bytes`, number 22.
    #[prost(bytes = "vec", optional, tag = "22")]
    pub maybe_bytes: ::core::option::Option<::waystation_service::codegen::prost::alloc::vec::Vec<u8>>,
    /// Field `maybe_color`, number 23.
    #[prost(enumeration = "everything::Color", optional, tag = "23")]
    pub maybe_color: ::core::option::Option<i32>,
    /// A keyword in Rust.
    #[prost(string, tag = "60")]
    pub r#type: ::waystation_service::codegen::prost::alloc::string::String,
    /// Field `renamed`, number 61.
    #[prost(string, tag = "61")]
    pub renamed: ::waystation_service::codegen::prost::alloc::string::String,
    /// Field `old`, number 62.
    #[deprecated]
    #[prost(string, tag = "62")]
    pub old: ::waystation_service::codegen::prost::alloc::string::String,
    /// Messages may contain themselves.
    #[prost(message, optional, boxed, tag = "63")]
    pub child: ::core::option::Option<::waystation_service::codegen::prost::alloc::boxed::Box<Everything>>,
}
/// Nested message and enum types in `Everything`.
pub mod everything {
    /// Message `every_type.Everything.Inner`.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, ::waystation_service::codegen::prost::Message)]
#[prost(prost_path = "::waystation_service::codegen::prost")]
    pub struct Inner {
        /// Field `value`, number 1.
        #[prost(int32, tag = "1")]
        pub value: i32,
    }
    /// Enum `every_type.Everything.Color`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, ::waystation_service::codegen::prost::Enumeration)]
#[prost(prost_path = "::waystation_service::codegen::prost")]
    #[repr(i32)]
    pub enum Color {
        /// Value `COLOR_NONE`, number 0.
        None = 0,
        /// Value `COLOR_RED`, number 1.
        Red = 1,
        /// Value `COLOR_GREEN`, number 2.
        Green = 2,
    }
    impl Color {
        /// String value of the enum field names used in the ProtoBuf definition.
        ///
        /// The values are not transformed in any way and thus are considered stable
        /// (if the ProtoBuf definition does not change) and safe for programmatic use.
        pub fn as_str_name(&self) -> &'static str {
            match self {
                Self::None => "COLOR_NONE",
                Self::Red => "COLOR_RED",
                Self::Green => "COLOR_GREEN",
            }
        }
        /// Creates an enum from field names used in the ProtoBuf definition.
        pub fn from_str_name(value: &str) -> ::core::option::Option<Self> {
            match value {
                "COLOR_NONE" => Some(Self::None),
                "COLOR_RED" => Some(Self::Red),
                "COLOR_GREEN" => Some(Self::Green),
                _ => None,
            }
        }
    }
}

const _: () = {
    #[allow(unused_imports, reason = "generated code")]
    use ::waystation_service::codegen::{pbjson, serde};

    impl serde::Serialize for Everything {
        #[allow(deprecated)]
        fn serialize<S>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error>
        where
            S: serde::Serializer,
        {
            use serde::ser::SerializeStruct;
            let mut len = 0;
            if self.a_double != 0. {
                len += 1;
            }
            if self.a_float != 0. {
                len += 1;
            }
            if self.an_int32 != 0 {
                len += 1;
            }
            if self.an_int64 != 0 {
                len += 1;
            }
            if self.a_uint32 != 0 {
                len += 1;
            }
            if self.a_uint64 != 0 {
                len += 1;
            }
            if self.a_sint64 != 0 {
                len += 1;
            }
            if self.a_fixed64 != 0 {
                len += 1;
            }
            if self.a_bool {
                len += 1;
            }
            if !self.a_string.is_empty() {
                len += 1;
            }
            if !self.some_bytes.is_empty() {
                len += 1;
            }
            if self.color != 0 {
                len += 1;
            }
            if self.inner.is_some() {
                len += 1;
            }
            if self.maybe_int64.is_some() {
                len += 1;
            }
            if self.maybe_string.is_some() {
                len += 1;
            }
            if self.maybe_bytes.is_some() {
                len += 1;
            }
            if self.maybe_color.is_some() {
                len += 1;
            }
            if !self.r#type.is_empty() {
                len += 1;
            }
            if !self.renamed.is_empty() {
                len += 1;
            }
            if !self.old.is_empty() {
                len += 1;
            }
            if self.child.is_some() {
                len += 1;
            }
            let mut struct_ser = serializer.serialize_struct("every_type.Everything", len)?;
            if self.a_double != 0. {
                struct_ser.serialize_field("aDouble", &self.a_double)?;
            }
            if self.a_float != 0. {
                struct_ser.serialize_field("aFloat", &self.a_float)?;
            }
            if self.an_int32 != 0 {
                struct_ser.serialize_field("anInt32", &self.an_int32)?;
            }
            if self.an_int64 != 0 {
                #[allow(clippy::needless_borrow)]
                #[allow(clippy::needless_borrows_for_generic_args)]
                struct_ser.serialize_field("anInt64", ToString::to_string(&self.an_int64).as_str())?;
            }
            if self.a_uint32 != 0 {
                struct_ser.serialize_field("aUint32", &self.a_uint32)?;
            }
            if self.a_uint64 != 0 {
                #[allow(clippy::needless_borrow)]
                #[allow(clippy::needless_borrows_for_generic_args)]
                struct_ser.serialize_field("aUint64", ToString::to_string(&self.a_uint64).as_str())?;
            }
            if self.a_sint64 != 0 {
                #[allow(clippy::needless_borrow)]
                #[allow(clippy::needless_borrows_for_generic_args)]
                struct_ser.serialize_field("aSint64", ToString::to_string(&self.a_sint64).as_str())?;
            }
            if self.a_fixed64 != 0 {
                #[allow(clippy::needless_borrow)]
                #[allow(clippy::needless_borrows_for_generic_args)]
                struct_ser.serialize_field("aFixed64", ToString::to_string(&self.a_fixed64).as_str())?;
            }
            if self.a_bool {
                struct_ser.serialize_field("aBool", &self.a_bool)?;
            }
            if !self.a_string.is_empty() {
                struct_ser.serialize_field("aString", &self.a_string)?;
            }
            if !self.some_bytes.is_empty() {
                #[allow(clippy::needless_borrow)]
                #[allow(clippy::needless_borrows_for_generic_args)]
                struct_ser.serialize_field("someBytes", pbjson::private::base64::encode(&self.some_bytes).as_str())?;
            }
            if self.color != 0 {
                let v = everything::Color::try_from(self.color)
                    .map_err(|_| serde::ser::Error::custom(format!("Invalid variant {}", self.color)))?;
                struct_ser.serialize_field("color", &v)?;
            }
            if let Some(v) = self.inner.as_ref() {
                struct_ser.serialize_field("inner", v)?;
            }
            if let Some(v) = self.maybe_int64.as_ref() {
                #[allow(clippy::needless_borrow)]
                #[allow(clippy::needless_borrows_for_generic_args)]
                struct_ser.serialize_field("maybeInt64", ToString::to_string(&v).as_str())?;
            }
            if let Some(v) = self.maybe_string.as_ref() {
                struct_ser.serialize_field("maybeString", v)?;
            }
            if let Some(v) = self.maybe_bytes.as_ref() {
                #[allow(clippy::needless_borrow)]
                #[allow(clippy::needless_borrows_for_generic_args)]
                struct_ser.serialize_field("maybeBytes", pbjson::private::base64::encode(&v).as_str())?;
            }
            if let Some(v) = self.maybe_color.as_ref() {
                let v = everything::Color::try_from(*v)
                    .map_err(|_| serde::ser::Error::custom(format!("Invalid variant {}", *v)))?;
                struct_ser.serialize_field("maybeColor", &v)?;
            }
            if !self.r#type.is_empty() {
                struct_ser.serialize_field("type", &self.r#type)?;
            }
            if !self.renamed.is_empty() {
                struct_ser.serialize_field("::pbjson::private", &self.renamed)?;
            }
            if !self.old.is_empty() {
                struct_ser.serialize_field("old", &self.old)?;
            }
            if let Some(v) = self.child.as_ref() {
                struct_ser.serialize_field("child", v)?;
            }
            struct_ser.end()
        }
    }
    impl<'de> serde::Deserialize<'de> for Everything {
        #[allow(deprecated)]
        fn deserialize<D>(deserializer: D) -> std::result::Result<Self, D::Error>
        where
            D: serde::Deserializer<'de>,
        {
            const FIELDS: &[&str] = &[
                "a_double",
                "aDouble",
                "a_float",
                "aFloat",
                "an_int32",
                "anInt32",
                "an_int64",
                "anInt64",
                "a_uint32",
                "aUint32",
                "a_uint64",
                "aUint64",
                "a_sint64",
                "aSint64",
                "a_fixed64",
                "aFixed64",
                "a_bool",
                "aBool",
                "a_string",
                "aString",
                "some_bytes",
                "someBytes",
                "color",
                "inner",
                "maybe_int64",
                "maybeInt64",
                "maybe_string",
                "maybeString",
                "maybe_bytes",
                "maybeBytes",
                "maybe_color",
                "maybeColor",
                "type",
                "renamed",
                "::pbjson::private",
                "old",
                "child",
            ];

            #[allow(clippy::enum_variant_names)]
            enum GeneratedField {
                ADouble,
                AFloat,
                AnInt32,
                AnInt64,
                AUint32,
                AUint64,
                ASint64,
                AFixed64,
                ABool,
                AString,
                SomeBytes,
                Color,
                Inner,
                MaybeInt64,
                MaybeString,
                MaybeBytes,
                MaybeColor,
                Type,
                Renamed,
                Old,
                Child,
            }
            impl<'de> serde::Deserialize<'de> for GeneratedField {
                fn deserialize<D>(deserializer: D) -> std::result::Result<GeneratedField, D::Error>
                where
                    D: serde::Deserializer<'de>,
                {
                    struct GeneratedVisitor;

                    impl serde::de::Visitor<'_> for GeneratedVisitor {
                        type Value = GeneratedField;

                        fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                            write!(formatter, "expected one of: {:?}", &FIELDS)
                        }

                        #[allow(unused_variables)]
                        fn visit_str<E>(self, value: &str) -> std::result::Result<GeneratedField, E>
                        where
                            E: serde::de::Error,
                        {
                            match value {
                                "aDouble" | "a_double" => Ok(GeneratedField::ADouble),
                                "aFloat" | "a_float" => Ok(GeneratedField::AFloat),
                                "anInt32" | "an_int32" => Ok(GeneratedField::AnInt32),
                                "anInt64" | "an_int64" => Ok(GeneratedField::AnInt64),
                                "aUint32" | "a_uint32" => Ok(GeneratedField::AUint32),
                                "aUint64" | "a_uint64" => Ok(GeneratedField::AUint64),
                                "aSint64" | "a_sint64" => Ok(GeneratedField::ASint64),
                                "aFixed64" | "a_fixed64" => Ok(GeneratedField::AFixed64),
                                "aBool" | "a_bool" => Ok(GeneratedField::ABool),
                                "aString" | "a_string" => Ok(GeneratedField::AString),
                                "someBytes" | "some_bytes" => Ok(GeneratedField::SomeBytes),
                                "color" => Ok(GeneratedField::Color),
                                "inner" => Ok(GeneratedField::Inner),
                                "maybeInt64" | "maybe_int64" => Ok(GeneratedField::MaybeInt64),
                                "maybeString" | "maybe_string" => Ok(GeneratedField::MaybeString),
                                "maybeBytes" | "maybe_bytes" => Ok(GeneratedField::MaybeBytes),
                                "maybeColor" | "maybe_color" => Ok(GeneratedField::MaybeColor),
                                "type" => Ok(GeneratedField::Type),
                                "::pbjson::private" | "renamed" => Ok(GeneratedField::Renamed),
                                "old" => Ok(GeneratedField::Old),
                                "child" => Ok(GeneratedField::Child),
                                _ => Err(serde::de::Error::unknown_field(value, FIELDS)),
                            }
                        }
                    }
                    deserializer.deserialize_identifier(GeneratedVisitor)
                }
            }
            struct GeneratedVisitor;
            impl<'de> serde::de::Visitor<'de> for GeneratedVisitor {
                type Value = Everything;

                fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    formatter.write_str("struct every_type.Everything")
                }

                fn visit_map<V>(self, mut map_: V) -> std::result::Result<Everything, V::Error>
                    where
                        V: serde::de::MapAccess<'de>,
                {
                    let mut a_double__ = None;
                    let mut a_float__ = None;
                    let mut an_int32__ = None;
                    let mut an_int64__ = None;
                    let mut a_uint32__ = None;
                    let mut a_uint64__ = None;
                    let mut a_sint64__ = None;
                    let mut a_fixed64__ = None;
                    let mut a_bool__ = None;
                    let mut a_string__ = None;
                    let mut some_bytes__ = None;
                    let mut color__ = None;
                    let mut inner__ = None;
                    let mut maybe_int64__ = None;
                    let mut maybe_string__ = None;
                    let mut maybe_bytes__ = None;
                    let mut maybe_color__ = None;
                    let mut r#type__ = None;
                    let mut renamed__ = None;
                    let mut old__ = None;
                    let mut child__ = None;
                    while let Some(k) = map_.next_key()? {
                        match k {
                            GeneratedField::ADouble => {
                                if a_double__.is_some() {
                                    return Err(serde::de::Error::duplicate_field("aDouble"));
                                }
                                a_double__ =
                                    Some(map_.next_value::<pbjson::private::NumberDeserialize<_>>()?.0)
                                ;
                            }
                            GeneratedField::AFloat => {
                                if a_float__.is_some() {
                                    return Err(serde::de::Error::duplicate_field("aFloat"));
                                }
                                a_float__ =
                                    Some(map_.next_value::<pbjson::private::NumberDeserialize<_>>()?.0)
                                ;
                            }
                            GeneratedField::AnInt32 => {
                                if an_int32__.is_some() {
                                    return Err(serde::de::Error::duplicate_field("anInt32"));
                                }
                                an_int32__ =
                                    Some(map_.next_value::<pbjson::private::NumberDeserialize<_>>()?.0)
                                ;
                            }
                            GeneratedField::AnInt64 => {
                                if an_int64__.is_some() {
                                    return Err(serde::de::Error::duplicate_field("anInt64"));
                                }
                                an_int64__ =
                                    Some(map_.next_value::<pbjson::private::NumberDeserialize<_>>()?.0)
                                ;
                            }
                            GeneratedField::AUint32 => {
                                if a_uint32__.is_some() {
                                    return Err(serde::de::Error::duplicate_field("aUint32"));
                                }
                                a_uint32__ =
                                    Some(map_.next_value::<pbjson::private::NumberDeserialize<_>>()?.0)
                                ;
                            }
                            GeneratedField::AUint64 => {
                                if a_uint64__.is_some() {
                                    return Err(serde::de::Error::duplicate_field("aUint64"));
                                }
                                a_uint64__ =
                                    Some(map_.next_value::<pbjson::private::NumberDeserialize<_>>()?.0)
                                ;
                            }
                            GeneratedField::ASint64 => {
                                if a_sint64__.is_some() {
                                    return Err(serde::de::Error::duplicate_field("aSint64"));
                                }
                                a_sint64__ =
                                    Some(map_.next_value::<pbjson::private::NumberDeserialize<_>>()?.0)
                                ;
                            }
                            GeneratedField::AFixed64 => {
                                if a_fixed64__.is_some() {
                                    return Err(serde::de::Error::duplicate_field("aFixed64"));
                                }
                                a_fixed64__ =
                                    Some(map_.next_value::<pbjson::private::NumberDeserialize<_>>()?.0)
                                ;
                            }
                            GeneratedField::ABool => {
                                if a_bool__.is_some() {
                                    return Err(serde::de::Error::duplicate_field("aBool"));
                                }
                                a_bool__ = Some(map_.next_value()?);
                            }
                            GeneratedField::AString => {
                                if a_string__.is_some() {
                                    return Err(serde::de::Error::duplicate_field("aString"));
                                }
                                a_string__ = Some(map_.next_value()?);
                            }
                            GeneratedField::SomeBytes => {
                                if some_bytes__.is_some() {
                                    return Err(serde::de::Error::duplicate_field("someBytes"));
                                }
                                some_bytes__ =
                                    Some(map_.next_value::<pbjson::private::BytesDeserialize<_>>()?.0)
                                ;
                            }
                            GeneratedField::Color => {
                                if color__.is_some() {
                                    return Err(serde::de::Error::duplicate_field("color"));
                                }
                                color__ = Some(map_.next_value::<everything::Color>()? as i32);
                            }
                            GeneratedField::Inner => {
                                if inner__.is_some() {
                                    return Err(serde::de::Error::duplicate_field("inner"));
                                }
                                inner__ = map_.next_value()?;
                            }
                            GeneratedField::MaybeInt64 => {
                                if maybe_int64__.is_some() {
                                    return Err(serde::de::Error::duplicate_field("maybeInt64"));
                                }
                                maybe_int64__ =
                                    map_.next_value::<::std::option::Option<pbjson::private::NumberDeserialize<_>>>()?.map(|x| x.0)
                                ;
                            }
                            GeneratedField::MaybeString => {
                                if maybe_string__.is_some() {
                                    return Err(serde::de::Error::duplicate_field("maybeString"));
                                }
                                maybe_string__ = map_.next_value()?;
                            }
                            GeneratedField::MaybeBytes => {
                                if maybe_bytes__.is_some() {
                                    return Err(serde::de::Error::duplicate_field("maybeBytes"));
                                }
                                maybe_bytes__ =
                                    map_.next_value::<::std::option::Option<pbjson::private::BytesDeserialize<_>>>()?.map(|x| x.0)
                                ;
                            }
                            GeneratedField::MaybeColor => {
                                if maybe_color__.is_some() {
                                    return Err(serde::de::Error::duplicate_field("maybeColor"));
                                }
                                maybe_color__ = map_.next_value::<::std::option::Option<everything::Color>>()?.map(|x| x as i32);
                            }
                            GeneratedField::Type => {
                                if r#type__.is_some() {
                                    return Err(serde::de::Error::duplicate_field("type"));
                                }
                                r#type__ = Some(map_.next_value()?);
                            }
                            GeneratedField::Renamed => {
                                if renamed__.is_some() {
                                    return Err(serde::de::Error::duplicate_field("::pbjson::private"));
                                }
                                renamed__ = Some(map_.next_value()?);
                            }
                            GeneratedField::Old => {
                                if old__.is_some() {
                                    return Err(serde::de::Error::duplicate_field("old"));
                                }
                                old__ = Some(map_.next_value()?);
                            }
                            GeneratedField::Child => {
                                if child__.is_some() {
                                    return Err(serde::de::Error::duplicate_field("child"));
                                }
                                child__ = map_.next_value()?;
                            }
                        }
                    }
                    Ok(Everything {
                        a_double: a_double__.unwrap_or_default(),
                        a_float: a_float__.unwrap_or_default(),
                        an_int32: an_int32__.unwrap_or_default(),
                        an_int64: an_int64__.unwrap_or_default(),
                        a_uint32: a_uint32__.unwrap_or_default(),
                        a_uint64: a_uint64__.unwrap_or_default(),
                        a_sint64: a_sint64__.unwrap_or_default(),
                        a_fixed64: a_fixed64__.unwrap_or_default(),
                        a_bool: a_bool__.unwrap_or_default(),
                        a_string: a_string__.unwrap_or_default(),
                        some_bytes: some_bytes__.unwrap_or_default(),
                        color: color__.unwrap_or_default(),
                        inner: inner__,
                        maybe_int64: maybe_int64__,
                        maybe_string: maybe_string__,
                        maybe_bytes: maybe_bytes__,
                        maybe_color: maybe_color__,
                        r#type: r#type__.unwrap_or_default(),
                        renamed: renamed__.unwrap_or_default(),
                        old: old__.unwrap_or_default(),
                        child: child__,
                    })
                }
            }
            deserializer.deserialize_struct("every_type.Everything", FIELDS, GeneratedVisitor)
        }
    }
    impl serde::Serialize for everything::Color {
        #[allow(deprecated)]
        fn serialize<S>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error>
        where
            S: serde::Serializer,
        {
            let variant = match self {
                Self::None => "COLOR_NONE",
                Self::Red => "COLOR_RED",
                Self::Green => "COLOR_GREEN",
            };
            serializer.serialize_str(variant)
        }
    }
    impl<'de> serde::Deserialize<'de> for everything::Color {
        #[allow(deprecated)]
        fn deserialize<D>(deserializer: D) -> std::result::Result<Self, D::Error>
        where
            D: serde::Deserializer<'de>,
        {
            const FIELDS: &[&str] = &[
                "COLOR_NONE",
                "COLOR_RED",
                "COLOR_GREEN",
            ];

            struct GeneratedVisitor;

            impl serde::de::Visitor<'_> for GeneratedVisitor {
                type Value = everything::Color;

                fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    write!(formatter, "expected one of: {:?}", &FIELDS)
                }

                fn visit_i64<E>(self, v: i64) -> std::result::Result<Self::Value, E>
                where
                    E: serde::de::Error,
                {
                    i32::try_from(v)
                        .ok()
                        .and_then(|x| x.try_into().ok())
                        .ok_or_else(|| {
                            serde::de::Error::invalid_value(serde::de::Unexpected::Signed(v), &self)
                        })
                }

                fn visit_u64<E>(self, v: u64) -> std::result::Result<Self::Value, E>
                where
                    E: serde::de::Error,
                {
                    i32::try_from(v)
                        .ok()
                        .and_then(|x| x.try_into().ok())
                        .ok_or_else(|| {
                            serde::de::Error::invalid_value(serde::de::Unexpected::Unsigned(v), &self)
                        })
                }

                fn visit_str<E>(self, value: &str) -> std::result::Result<Self::Value, E>
                where
                    E: serde::de::Error,
                {
                    match value {
                        "COLOR_NONE" => Ok(everything::Color::None),
                        "COLOR_RED" => Ok(everything::Color::Red),
                        "COLOR_GREEN" => Ok(everything::Color::Green),
                        _ => Err(serde::de::Error::unknown_variant(value, FIELDS)),
                    }
                }
            }
            deserializer.deserialize_any(GeneratedVisitor)
        }
    }
    impl serde::Serialize for everything::Inner {
        #[allow(deprecated)]
        fn serialize<S>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error>
        where
            S: serde::Serializer,
        {
            use serde::ser::SerializeStruct;
            let mut len = 0;
            if self.value != 0 {
                len += 1;
            }
            let mut struct_ser = serializer.serialize_struct("every_type.Everything.Inner", len)?;
            if self.value != 0 {
                struct_ser.serialize_field("value", &self.value)?;
            }
            struct_ser.end()
        }
    }
    impl<'de> serde::Deserialize<'de> for everything::Inner {
        #[allow(deprecated)]
        fn deserialize<D>(deserializer: D) -> std::result::Result<Self, D::Error>
        where
            D: serde::Deserializer<'de>,
        {
            const FIELDS: &[&str] = &[
                "value",
            ];

            #[allow(clippy::enum_variant_names)]
            enum GeneratedField {
                Value,
            }
            impl<'de> serde::Deserialize<'de> for GeneratedField {
                fn deserialize<D>(deserializer: D) -> std::result::Result<GeneratedField, D::Error>
                where
                    D: serde::Deserializer<'de>,
                {
                    struct GeneratedVisitor;

                    impl serde::de::Visitor<'_> for GeneratedVisitor {
                        type Value = GeneratedField;

                        fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                            write!(formatter, "expected one of: {:?}", &FIELDS)
                        }

                        #[allow(unused_variables)]
                        fn visit_str<E>(self, value: &str) -> std::result::Result<GeneratedField, E>
                        where
                            E: serde::de::Error,
                        {
                            match value {
                                "value" => Ok(GeneratedField::Value),
                                _ => Err(serde::de::Error::unknown_field(value, FIELDS)),
                            }
                        }
                    }
                    deserializer.deserialize_identifier(GeneratedVisitor)
                }
            }
            struct GeneratedVisitor;
            impl<'de> serde::de::Visitor<'de> for GeneratedVisitor {
                type Value = everything::Inner;

                fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    formatter.write_str("struct every_type.Everything.Inner")
                }

                fn visit_map<V>(self, mut map_: V) -> std::result::Result<everything::Inner, V::Error>
                    where
                        V: serde::de::MapAccess<'de>,
                {
                    let mut value__ = None;
                    while let Some(k) = map_.next_key()? {
                        match k {
                            GeneratedField::Value => {
                                if value__.is_some() {
                                    return Err(serde::de::Error::duplicate_field("value"));
                                }
                                value__ =
                                    Some(map_.next_value::<pbjson::private::NumberDeserialize<_>>()?.0)
                                ;
                            }
                        }
                    }
                    Ok(everything::Inner {
                        value: value__.unwrap_or_default(),
                    })
                }
            }
            deserializer.deserialize_struct("every_type.Everything.Inner", FIELDS, GeneratedVisitor)
        }
    }
};
