// Generated from the protobuf package `im.common`. Do not edit.

/// A place in a conversation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, ::waystation_service::codegen::prost::Message)]
#[prost(prost_path = "::waystation_service::codegen::prost")]
pub struct Cursor {
    /// Field `after`, number 1.
    #[prost(uint64, tag = "1")]
    pub after: u64,
    /// Field `limit`, number 2.
    #[prost(uint32, tag = "2")]
    pub limit: u32,
}
/// Message `im.common.Page`.
#[derive(Clone, PartialEq, Eq, Hash, ::waystation_service::codegen::prost::Message)]
#[prost(prost_path = "::waystation_service::codegen::prost")]
pub struct Page {
    /// Field `texts`, number 1.
    #[prost(string, repeated, tag = "1")]
    pub texts: ::waystation_service::codegen::prost::alloc::vec::Vec<::waystation_service::codegen::prost::alloc::string::String>,
}
/// Enum `im.common.Kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, ::waystation_service::codegen::prost::Enumeration)]
#[prost(prost_path = "::waystation_service::codegen::prost")]
#[repr(i32)]
pub enum Kind {
    /// Value `KIND_UNSPECIFIED`, number 0.
    Unspecified = 0,
    /// Plain text.
    Text = 1,
    /// Value `KIND_IMAGE`, number 2.
    Image = 2,
}
impl Kind {
    /// String value of the enum field names used in the ProtoBuf definition.
    ///
    /// The values are not transformed in any way and thus are considered stable
    /// (if the ProtoBuf definition does not change) and safe for programmatic use.
    pub fn as_str_name(&self) -> &'static str {
        match self {
            Self::Unspecified => "KIND_UNSPECIFIED",
            Self::Text => "KIND_TEXT",
            Self::Image => "KIND_IMAGE",
        }
    }
    /// Creates an enum from field names used in the ProtoBuf definition.
    pub fn from_str_name(value: &str) -> ::core::option::Option<Self> {
        match value {
            "KIND_UNSPECIFIED" => Some(Self::Unspecified),
            "KIND_TEXT" => Some(Self::Text),
            "KIND_IMAGE" => Some(Self::Image),
            _ => None,
        }
    }
}

const _: () = {
    #[allow(unused_imports, reason = "generated code")]
    use ::waystation_service::codegen::{pbjson, serde};

    impl serde::Serialize for Cursor {
        #[allow(deprecated)]
        fn serialize<S>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error>
        where
            S: serde::Serializer,
        {
            use serde::ser::SerializeStruct;
            let mut len = 0;
            if self.after != 0 {
                len += 1;
            }
            if self.limit != 0 {
                len += 1;
            }
            let mut struct_ser = serializer.serialize_struct("im.common.Cursor", len)?;
            if self.after != 0 {
                #[allow(clippy::needless_borrow)]
                #[allow(clippy::needless_borrows_for_generic_args)]
                struct_ser.serialize_field("after", ToString::to_string(&self.after).as_str())?;
            }
            if self.limit != 0 {
                struct_ser.serialize_field("limit", &self.limit)?;
            }
            struct_ser.end()
        }
    }
    impl<'de> serde::Deserialize<'de> for Cursor {
        #[allow(deprecated)]
        fn deserialize<D>(deserializer: D) -> std::result::Result<Self, D::Error>
        where
            D: serde::Deserializer<'de>,
        {
            const FIELDS: &[&str] = &[
                "after",
                "limit",
            ];

            #[allow(clippy::enum_variant_names)]
            enum GeneratedField {
                After,
                Limit,
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
                                "after" => Ok(GeneratedField::After),
                                "limit" => Ok(GeneratedField::Limit),
                                _ => Err(serde::de::Error::unknown_field(value, FIELDS)),
                            }
                        }
                    }
                    deserializer.deserialize_identifier(GeneratedVisitor)
                }
            }
            struct GeneratedVisitor;
            impl<'de> serde::de::Visitor<'de> for GeneratedVisitor {
                type Value = Cursor;

                fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    formatter.write_str("struct im.common.Cursor")
                }

                fn visit_map<V>(self, mut map_: V) -> std::result::Result<Cursor, V::Error>
                    where
                        V: serde::de::MapAccess<'de>,
                {
                    let mut after__ = None;
                    let mut limit__ = None;
                    while let Some(k) = map_.next_key()? {
                        match k {
                            GeneratedField::After => {
                                if after__.is_some() {
                                    return Err(serde::de::Error::duplicate_field("after"));
                                }
                                after__ =
                                    Some(map_.next_value::<pbjson::private::NumberDeserialize<_>>()?.0)
                                ;
                            }
                            GeneratedField::Limit => {
                                if limit__.is_some() {
                                    return Err(serde::de::Error::duplicate_field("limit"));
                                }
                                limit__ =
                                    Some(map_.next_value::<pbjson::private::NumberDeserialize<_>>()?.0)
                                ;
                            }
                        }
                    }
                    Ok(Cursor {
                        after: after__.unwrap_or_default(),
                        limit: limit__.unwrap_or_default(),
                    })
                }
            }
            deserializer.deserialize_struct("im.common.Cursor", FIELDS, GeneratedVisitor)
        }
    }
    impl serde::Serialize for Kind {
        #[allow(deprecated)]
        fn serialize<S>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error>
        where
            S: serde::Serializer,
        {
            let variant = match self {
                Self::Unspecified => "KIND_UNSPECIFIED",
                Self::Text => "KIND_TEXT",
                Self::Image => "KIND_IMAGE",
            };
            serializer.serialize_str(variant)
        }
    }
    impl<'de> serde::Deserialize<'de> for Kind {
        #[allow(deprecated)]
        fn deserialize<D>(deserializer: D) -> std::result::Result<Self, D::Error>
        where
            D: serde::Deserializer<'de>,
        {
            const FIELDS: &[&str] = &[
                "KIND_UNSPECIFIED",
                "KIND_TEXT",
                "KIND_IMAGE",
            ];

            struct GeneratedVisitor;

            impl serde::de::Visitor<'_> for GeneratedVisitor {
                type Value = Kind;

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
                        "KIND_UNSPECIFIED" => Ok(Kind::Unspecified),
                        "KIND_TEXT" => Ok(Kind::Text),
                        "KIND_IMAGE" => Ok(Kind::Image),
                        _ => Err(serde::de::Error::unknown_variant(value, FIELDS)),
                    }
                }
            }
            deserializer.deserialize_any(GeneratedVisitor)
        }
    }
    impl serde::Serialize for Page {
        #[allow(deprecated)]
        fn serialize<S>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error>
        where
            S: serde::Serializer,
        {
            use serde::ser::SerializeStruct;
            let mut len = 0;
            if !self.texts.is_empty() {
                len += 1;
            }
            let mut struct_ser = serializer.serialize_struct("im.common.Page", len)?;
            if !self.texts.is_empty() {
                struct_ser.serialize_field("texts", &self.texts)?;
            }
            struct_ser.end()
        }
    }
    impl<'de> serde::Deserialize<'de> for Page {
        #[allow(deprecated)]
        fn deserialize<D>(deserializer: D) -> std::result::Result<Self, D::Error>
        where
            D: serde::Deserializer<'de>,
        {
            const FIELDS: &[&str] = &[
                "texts",
            ];

            #[allow(clippy::enum_variant_names)]
            enum GeneratedField {
                Texts,
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
                                "texts" => Ok(GeneratedField::Texts),
                                _ => Err(serde::de::Error::unknown_field(value, FIELDS)),
                            }
                        }
                    }
                    deserializer.deserialize_identifier(GeneratedVisitor)
                }
            }
            struct GeneratedVisitor;
            impl<'de> serde::de::Visitor<'de> for GeneratedVisitor {
                type Value = Page;

                fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    formatter.write_str("struct im.common.Page")
                }

                fn visit_map<V>(self, mut map_: V) -> std::result::Result<Page, V::Error>
                    where
                        V: serde::de::MapAccess<'de>,
                {
                    let mut texts__ = None;
                    while let Some(k) = map_.next_key()? {
                        match k {
                            GeneratedField::Texts => {
                                if texts__.is_some() {
                                    return Err(serde::de::Error::duplicate_field("texts"));
                                }
                                texts__ = Some(map_.next_value()?);
                            }
                        }
                    }
                    Ok(Page {
                        texts: texts__.unwrap_or_default(),
                    })
                }
            }
            deserializer.deserialize_struct("im.common.Page", FIELDS, GeneratedVisitor)
        }
    }
};
