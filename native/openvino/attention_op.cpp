// OpenVINO calls `evaluate` of custom operations on its own threads and in its own thread arena.
#include "attention_op.h"

#include <oneapi/tbb/parallel_for.h>

#include "../attention/attention.h"

namespace diffoundry {
namespace {

// Inside OpenVINO's arena: as many threads as the model was compiled for, and none of our own.
void tbb_threads(size_t n, const std::function<void(size_t)>& body) {
    oneapi::tbb::parallel_for(size_t(0), n, body);
}

bool known(ov::element::Type type) {
    return type == ov::element::f32 || type == ov::element::f16 || type == ov::element::bf16;
}

Type type_of(const ov::Tensor& tensor) {
    const ov::element::Type type = tensor.get_element_type();
    return type == ov::element::bf16 ? Type::bf16 : type == ov::element::f16 ? Type::f16 : Type::f32;
}

Tensor view(const ov::Tensor& tensor, size_t heads) {
    const ov::Shape& shape = tensor.get_shape();
    const ov::Strides strides = tensor.get_strides();
    const size_t bytes = tensor.get_element_type().size();
    return {const_cast<void*>(static_cast<const void*>(tensor.data())), type_of(tensor), ptrdiff_t(strides[0] / bytes),
            ptrdiff_t(shape[2] / heads), ptrdiff_t(strides[1] / bytes)};
}

}  // namespace

DiffoundryAttention::DiffoundryAttention(const ov::OutputVector& arguments, int64_t heads, float scale)
    : Op(arguments), heads_(heads), scale_(scale) {
    constructor_validate_and_infer_types();
}

void DiffoundryAttention::validate_and_infer_types() {
    NODE_VALIDATION_CHECK(this, get_input_size() == 3, "expected Q, K and V, got ", get_input_size(), " inputs");
    const ov::element::Type type = get_input_element_type(0);
    NODE_VALIDATION_CHECK(this, type.is_dynamic() || known(type), "expected f32, f16 or bf16, got ", type);
    NODE_VALIDATION_CHECK(this, heads_ > 0, "expected at least one head, got ", heads_);
    for (size_t i = 0; i < 3; i++) {
        const ov::PartialShape& shape = get_input_partial_shape(i);
        NODE_VALIDATION_CHECK(this, get_input_element_type(i) == type, "expected inputs of one type, got ", type, " and ",
                              get_input_element_type(i));
        NODE_VALIDATION_CHECK(this, shape.rank().compatible(3), "expected (batch, length, heads * width), got ", shape);
        if (shape.rank().is_dynamic() || shape[2].is_dynamic()) continue;
        const int64_t width = shape[2].get_length() / heads_;
        NODE_VALIDATION_CHECK(this,
                              width * heads_ == shape[2].get_length() && width % 8 == 0 && width > 0 &&
                                  width <= int64_t(MAX_WIDTH),
                              "expected heads of a width that is a multiple of 8 from 8 to ", MAX_WIDTH, ", got ", shape[2],
                              " values for ", heads_, " heads");
    }
    const ov::PartialShape &q = get_input_partial_shape(0), &v = get_input_partial_shape(2);
    set_output_type(0, type, q.rank().is_static() && v.rank().is_static() ? ov::PartialShape{q[0], q[1], v[2]}
                                                                          : ov::PartialShape::dynamic(3));
}

std::shared_ptr<ov::Node> DiffoundryAttention::clone_with_new_inputs(const ov::OutputVector& arguments) const {
    return std::make_shared<DiffoundryAttention>(arguments, heads_, scale_);
}

bool DiffoundryAttention::visit_attributes(ov::AttributeVisitor& visitor) {
    visitor.on_attribute("heads", heads_);
    visitor.on_attribute("scale", scale_);
    return true;
}

bool DiffoundryAttention::has_evaluate() const { return true; }

bool DiffoundryAttention::evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const {
    const ov::Shape &q = inputs[0].get_shape(), &k = inputs[1].get_shape(), &v = inputs[2].get_shape();
    OPENVINO_ASSERT(k[0] == q[0] && v[0] == q[0] && v[1] == k[1] && k[2] == q[2], "DiffoundryAttention: got Q ", q,
                    ", K ", k, " and V ", v, ", expected one batch, K and V of one length, Q and K of one width");
    outputs[0].set_shape({q[0], q[1], v[2]});
    const size_t heads = size_t(heads_);
    attention({q[0], heads, q[1], k[1], q[2] / heads, v[2] / heads, scale_, view(inputs[0], heads), view(inputs[1], heads),
               view(inputs[2], heads), view(outputs[0], heads)},
              best_path(type_of(inputs[0])), tbb_threads);
    return true;
}

}  // namespace diffoundry
