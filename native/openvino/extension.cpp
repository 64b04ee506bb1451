// What `core.add_extension` finds in the library.
#include <openvino/core/extension.hpp>
#include <openvino/core/op_extension.hpp>

#include "attention_op.h"

OPENVINO_CREATE_EXTENSIONS(
    std::vector<ov::Extension::Ptr>({std::make_shared<ov::OpExtension<diffoundry::DiffoundryAttention>>()}));
