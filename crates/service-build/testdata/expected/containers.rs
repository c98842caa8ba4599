// Generated from the protobuf package `containers`. Do not edit.

/// One field of each kind of container, over types of another package.
#[derive(Debug)]
#[derive(Clone, PartialEq, ::waystation_service::codegen::prost::Message)]
#[prost(prost_path = "::waystation_service::codegen::prost")]
#[prost(skip_debug)]
pub struct Containers {
    /// Field `int64s`, number 30.
    #[prost(int64, repeated, tag = "30")]
    pub int64s: ::waystation_service::codegen::prost::alloc::vec::Vec<i64>,
    /// Field `strings`, number 31.
    #[prost(string, repeated, tag = "31")]
    pub strings: ::waystation_service::codegen::prost::alloc::vec::Vec<::waystation_service::codegen::prost::alloc::string::String>,
    /// Field `blobs`, number 32.
    #[prost(bytes = "vec", repeated, tag = "32")]
    pub blobs: ::waystation_service::codegen::prost::alloc::vec::Vec<::waystation_service::codegen::prost::alloc::vec::Vec<u8>>,
    /// Field `colors`, number 33.
    #[prost(enumeration = "super::every_type::everything::Color", repeated, tag = "33")]
    pub colors: ::waystation_service::codegen::prost::alloc::vec::Vec<i32>,
    /// Field `inners`, number 34.
    #[prost(message, repeated, tag = "34")]
    pub inners: ::waystation_service::codegen::prost::alloc::vec::Vec<super::every_type::everything::Inner>,
    /// Field `counts`, number 40.
    #[prost(btree_map = "string, int64", tag = "40")]
    pub counts: ::waystation_service::codegen::prost::alloc::collections::BTreeMap<::waystation_service::codegen::prost::alloc::string::String, i64>,
    /// Field `names`, number 41.
    #[prost(btree_map = "int64, string", tag = "41")]
    pub names: ::waystation_service::codegen::prost::alloc::collections::BTreeMap<i64, ::waystation_service::codegen::prost::alloc::string::String>,
    /// Field `blob_of`, number 42.
    #[prost(btree_map = "string, bytes", tag = "42")]
    pub blob_of: ::waystation_service::codegen::prost::alloc::collections::BTreeMap<::waystation_service::codegen::prost::alloc::string::String, ::waystation_service::codegen::prost::alloc::vec::Vec<u8>>,
    /// Field `color_of`, number 43.
    #[prost(btree_map = "uint32, enumeration(super::every_type::everything::Color)", tag = "43")]
    pub color_of: ::waystation_service::codegen::prost::alloc::collections::BTreeMap<u32, i32>,
    /// Field `inner_of`, number 44.
    #[prost(btree_map = "bool, message", tag = "44")]
    pub inner_of: ::waystation_service::codegen::prost::alloc::collections::BTreeMap<bool, super::every_type::everything::Inner>,
    /// One of several: `containers.Containers.choice`.
    #[prost(oneof = "containers::Choice", tags = "50, 51, 52, 53, 54")]
    pub choice: ::core::option::Option<containers::Choice>,
}
/// Nested message and enum types in `Containers`.
pub mod containers {
    /// One of several: `containers.Containers.choice`.
    #[derive(Debug)]
    #[derive(Clone, PartialEq, Eq, Hash, ::waystation_service::codegen::prost::Oneof)]
#[prost(prost_path = "::waystation_service::codegen::prost")]
    #[prost(skip_debug)]
    pub enum Choice {
        /// Field `choice_number`, number 50.
        #[prost(int64, tag = "50")]
        ChoiceNumber(i64),
        /// Field `choice_text`, number 51.
        #[prost(string, tag = "51")]
        ChoiceText(::waystation_service::codegen::prost::alloc::string::String),
        /// Field `choice_blob`, number 52.
        #[prost(bytes, tag = "52")]
        ChoiceBlob(::waystation_service::codegen::prost::alloc::vec::Vec<u8>),
        /// Field `choice_color`, number 53.
        #[prost(enumeration = "super::super::every_type::everything::Color", tag = "53")]
        ChoiceColor(i32),
        /// Field `choice_inner`, number 54.
        #[prost(message, tag = "54")]
        ChoiceInner(super::super::every_type::everything::Inner),
    }
}

const _: () = {
    #[allow(unused_imports, reason = "generated code")]
    use ::waystation_service::codegen::{pbjson, serde};

    impl serde::Serialize for Containers {
        #[allow(deprecated)]
        fn serialize<S>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error>
        where
            S: serde::Serializer,
        {
            use serde::ser::SerializeStruct;
            let mut len = 0;
            if !self.int64s.is_empty() {
                len += 1;
            }
            if !self.strings.is_empty() {
                len += 1;
            }
            if !self.blobs.is_empty() {
                len += 1;
            }
            if !self.colors.is_empty() {
                len += 1;
            }
            if !self.inners.is_empty() {
                len += 1;
            }
            if !self.counts.is_empty() {
                len += 1;
            }
            if !self.names.is_empty() {
                len += 1;
            }
            if !self.blob_of.is_empty() {
                len += 1;
            }
            if !self.color_of.is_empty() {
                len += 1;
            }
            if !self.inner_of.is_empty() {
                len += 1;
            }
            if self.choice.is_some() {
                len += 1;
            }
            let mut struct_ser = serializer.serialize_struct("containers.Containers", len)?;
            if !self.int64s.is_empty() {
                struct_ser.serialize_field("int64s", &self.int64s.iter().map(ToString::to_string).collect::<Vec<_>>())?;
            }
            if !self.strings.is_empty() {
                struct_ser.serialize_field("strings", &self.strings)?;
            }
            if !self.blobs.is_empty() {
                struct_ser.serialize_field("blobs", &self.blobs.iter().map(pbjson::private::base64::encode).collect::<Vec<_>>())?;
            }
            if !self.colors.is_empty() {
                let v = self.colors.iter().cloned().map(|v| {
                    super::every_type::everything::Color::try_from(v)
                        .map_err(|_| serde::ser::Error::custom(format!("Invalid variant {}", v)))
                    }).collect::<std::result::Result<Vec<_>, _>>()?;
                struct_ser.serialize_field("colors", &v)?;
            }
            if !self.inners.is_empty() {
                struct_ser.serialize_field("inners", &self.inners)?;
            }
            if !self.counts.is_empty() {
                let v: std::collections::BTreeMap<_, _> = self.counts.iter()
                    .map(|(k, v)| (k, v.to_string())).collect();
                struct_ser.serialize_field("counts", &v)?;
            }
            if !self.names.is_empty() {
                struct_ser.serialize_field("names", &self.names)?;
            }
            if !self.blob_of.is_empty() {
                let v: std::collections::BTreeMap<_, _> = self.blob_of.iter()
                    .map(|(k, v)| (k, pbjson::private::base64::encode(v))).collect();
                struct_ser.serialize_field("blobOf", &v)?;
            }
            if !self.color_of.is_empty() {
                let v: std::collections::BTreeMap<_, _> = self.color_of.iter()
                    .map(|(k, v)| {
                        let v = super::every_type::everything::Color::try_from(*v)
                            .map_err(|_| serde::ser::Error::custom(format!("Invalid variant {}", *v)))?;
                        Ok((k, v))
                    }).collect::<std::result::Result<_,_>>()?;
                struct_ser.serialize_field("colorOf", &v)?;
            }
            if !self.inner_of.is_empty() {
                struct_ser.serialize_field("innerOf", &self.inner_of)?;
            }
            if let Some(v) = self.choice.as_ref() {
                match v {
                    containers::Choice::ChoiceNumber(v) => {
                        #[allow(clippy::needless_borrow)]
                        #[allow(clippy::needless_borrows_for_generic_args)]
                        struct_ser.serialize_field("choiceNumber", ToString::to_string(&v).as_str())?;
                    }
                    containers::Choice::ChoiceText(v) => {
                        struct_ser.serialize_field("choiceText", v)?;
                    }
                    containers::Choice::ChoiceBlob(v) => {
                        #[allow(clippy::needless_borrow)]
                        #[allow(clippy::needless_borrows_for_generic_args)]
                        struct_ser.serialize_field("choiceBlob", pbjson::private::base64::encode(&v).as_str())?;
                    }
                    containers::Choice::ChoiceColor(v) => {
                        let v = super::every_type::everything::Color::try_from(*v)
                            .map_err(|_| serde::ser::Error::custom(format!("Invalid variant {}", *v)))?;
                        struct_ser.serialize_field("choiceColor", &v)?;
                    }
                    containers::Choice::ChoiceInner(v) => {
                        struct_ser.serialize_field("choiceInner", v)?;
                    }
                }
            }
            struct_ser.end()
        }
    }
    impl<'de> serde::Deserialize<'de> for Containers {
        #[allow(deprecated)]
        fn deserialize<D>(deserializer: D) -> std::result::Result<Self, D::Error>
        where
            D: serde::Deserializer<'de>,
        {
            const FIELDS: &[&str] = &[
                "int64s",
                "strings",
                "blobs",
                "colors",
                "inners",
                "counts",
                "names",
                "blob_of",
                "blobOf",
                "color_of",
                "colorOf",
                "inner_of",
                "innerOf",
                "choice_number",
                "choiceNumber",
                "choice_text",
                "choiceText",
                "choice_blob",
                "choiceBlob",
                "choice_color",
                "choiceColor",
                "choice_inner",
                "choiceInner",
            ];

            #[allow(clippy::enum_variant_names)]
            enum GeneratedField {
                Int64s,
                Strings,
                Blobs,
                Colors,
                Inners,
                Counts,
                Names,
                BlobOf,
                ColorOf,
                InnerOf,
                ChoiceNumber,
                ChoiceText,
                ChoiceBlob,
                ChoiceColor,
                ChoiceInner,
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
                                "int64s" => Ok(GeneratedField::Int64s),
                                "strings" => Ok(GeneratedField::Strings),
                                "blobs" => Ok(GeneratedField::Blobs),
                                "colors" => Ok(GeneratedField::Colors),
                                "inners" => Ok(GeneratedField::Inners),
                                "counts" => Ok(GeneratedField::Counts),
                                "names" => Ok(GeneratedField::Names),
                                "blobOf" | "blob_of" => Ok(GeneratedField::BlobOf),
                                "colorOf" | "color_of" => Ok(GeneratedField::ColorOf),
                                "innerOf" | "inner_of" => Ok(GeneratedField::InnerOf),
                                "choiceNumber" | "choice_number" => Ok(GeneratedField::ChoiceNumber),
                                "choiceText" | "choice_text" => Ok(GeneratedField::ChoiceText),
                                "choiceBlob" | "choice_blob" => Ok(GeneratedField::ChoiceBlob),
                                "choiceColor" | "choice_color" => Ok(GeneratedField::ChoiceColor),
                                "choiceInner" | "choice_inner" => Ok(GeneratedField::ChoiceInner),
                                _ => Err(serde::de::Error::unknown_field(value, FIELDS)),
                            }
                        }
                    }
                    deserializer.deserialize_identifier(GeneratedVisitor)
                }
            }
            struct GeneratedVisitor;
            impl<'de> serde::de::Visitor<'de> for GeneratedVisitor {
                type Value = Containers;

                fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    formatter.write_str("struct containers.Containers")
                }

                fn visit_map<V>(self, mut map_: V) -> std::result::Result<Containers, V::Error>
                    where
                        V: serde::de::MapAccess<'de>,
                {
                    let mut int64s__ = None;
                    let mut strings__ = None;
                    let mut blobs__ = None;
                    let mut colors__ = None;
                    let mut inners__ = None;
                    let mut counts__ = None;
                    let mut names__ = None;
                    let mut blob_of__ = None;
                    let mut color_of__ = None;
                    let mut inner_of__ = None;
                    let mut choice__ = None;
                    while let Some(k) = map_.next_key()? {
                        match k {
                            GeneratedField::Int64s => {
                                if int64s__.is_some() {
                                    return Err(serde::de::Error::duplicate_field("int64s"));
                                }
                                int64s__ =
                                    Some(map_.next_value::<Vec<pbjson::private::NumberDeserialize<_>>>()?
                                        .into_iter().map(|x| x.0).collect())
                                ;
                            }
                            GeneratedField::Strings => {
                                if strings__.is_some() {
                                    return Err(serde::de::Error::duplicate_field("strings"));
                                }
                                strings__ = Some(map_.next_value()?);
                            }
                            GeneratedField::Blobs => {
                                if blobs__.is_some() {
                                    return Err(serde::de::Error::duplicate_field("blobs"));
                                }
                                blobs__ =
                                    Some(map_.next_value::<Vec<pbjson::private::BytesDeserialize<_>>>()?
                                        .into_iter().map(|x| x.0).collect())
                                ;
                            }
                            GeneratedField::Colors => {
                                if colors__.is_some() {
                                    return Err(serde::de::Error::duplicate_field("colors"));
                                }
                                colors__ = Some(map_.next_value::<Vec<super::every_type::everything::Color>>()?.into_iter().map(|x| x as i32).collect());
                            }
                            GeneratedField::Inners => {
                                if inners__.is_some() {
                                    return Err(serde::de::Error::duplicate_field("inners"));
                                }
                                inners__ = Some(map_.next_value()?);
                            }
                            GeneratedField::Counts => {
                                if counts__.is_some() {
                                    return Err(serde::de::Error::duplicate_field("counts"));
                                }
                                counts__ = Some(
                                    map_.next_value::<std::collections::BTreeMap<_, pbjson::private::NumberDeserialize<i64>>>()?
                                        .into_iter().map(|(k,v)| (k, v.0)).collect()
                                );
                            }
                            GeneratedField::Names => {
                                if names__.is_some() {
                                    return Err(serde::de::Error::duplicate_field("names"));
                                }
                                names__ = Some(
                                    map_.next_value::<std::collections::BTreeMap<pbjson::private::NumberDeserialize<i64>, _>>()?
                                        .into_iter().map(|(k,v)| (k.0, v)).collect()
                                );
                            }
                            GeneratedField::BlobOf => {
                                if blob_of__.is_some() {
                                    return Err(serde::de::Error::duplicate_field("blobOf"));
                                }
                                blob_of__ = Some(
                                    map_.next_value::<std::collections::BTreeMap<_, pbjson::private::BytesDeserialize<_>>>()?
                                        .into_iter().map(|(k,v)| (k, v.0)).collect()
                                );
                            }
                            GeneratedField::ColorOf => {
                                if color_of__.is_some() {
                                    return Err(serde::de::Error::duplicate_field("colorOf"));
                                }
                                color_of__ = Some(
                                    map_.next_value::<std::collections::BTreeMap<pbjson::private::NumberDeserialize<u32>, super::every_type::everything::Color>>()?
                                        .into_iter().map(|(k,v)| (k.0, v as i32)).collect()
                                );
                            }
                            GeneratedField::InnerOf => {
                                if inner_of__.is_some() {
                                    return Err(serde::de::Error::duplicate_field("innerOf"));
                                }
                                inner_of__ = Some(
                                    map_.next_value::<std::collections::BTreeMap<_, _>>()?
                                );
                            }
                            GeneratedField::ChoiceNumber => {
                                if choice__.is_some() {
                                    return Err(serde::de::Error::duplicate_field("choiceNumber"));
                                }
                                choice__ = map_.next_value::<::std::option::Option<pbjson::private::NumberDeserialize<_>>>()?.map(|x| containers::Choice::ChoiceNumber(x.0));
                            }
                            GeneratedField::ChoiceText => {
                                if choice__.is_some() {
                                    return Err(serde::de::Error::duplicate_field("choiceText"));
                                }
                                choice__ = map_.next_value::<::std::option::Option<_>>()?.map(containers::Choice::ChoiceText);
                            }
                            GeneratedField::ChoiceBlob => {
                                if choice__.is_some() {
                                    return Err(serde::de::Error::duplicate_field("choiceBlob"));
                                }
                                choice__ = map_.next_value::<::std::option::Option<pbjson::private::BytesDeserialize<_>>>()?.map(|x| containers::Choice::ChoiceBlob(x.0));
                            }
                            GeneratedField::ChoiceColor => {
                                if choice__.is_some() {
                                    return Err(serde::de::Error::duplicate_field("choiceColor"));
                                }
                                choice__ = map_.next_value::<::std::option::Option<super::every_type::everything::Color>>()?.map(|x| containers::Choice::ChoiceColor(x as i32));
                            }
                            GeneratedField::ChoiceInner => {
                                if choice__.is_some() {
                                    return Err(serde::de::Error::duplicate_field("choiceInner"));
                                }
                                choice__ = map_.next_value::<::std::option::Option<_>>()?.map(containers::Choice::ChoiceInner)
    ;
                            }
                        }
                    }
                    Ok(Containers {
                        int64s: int64s__.unwrap_or_default(),
                        strings: strings__.unwrap_or_default(),
                        blobs: blobs__.unwrap_or_default(),
                        colors: colors__.unwrap_or_default(),
                        inners: inners__.unwrap_or_default(),
                        counts: counts__.unwrap_or_default(),
                        names: names__.unwrap_or_default(),
                        blob_of: blob_of__.unwrap_or_default(),
                        color_of: color_of__.unwrap_or_default(),
                        inner_of: inner_of__.unwrap_or_default(),
                        choice: choice__,
                    })
                }
            }
            deserializer.deserialize_struct("containers.Containers", FIELDS, GeneratedVisitor)
        }
    }
};
