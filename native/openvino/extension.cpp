// Entry point of the library for `core.add_extension`.
#include <openvino/core/extension.hpp>
#include <openvino/core/op_extension.hpp>

#include "attention_op.h"

OPENVINO_CREATE_EXTENSIONS(
    std::vector<ov::Extension::Ptr>({std::make_shared<ov::OpExtension<diffoundry::DiffoundryAttention>>()}));
