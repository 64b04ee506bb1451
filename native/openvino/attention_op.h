// Operation in an OpenVINO model that runs attention in our kernel.
#pragma once

#include <openvino/op/op.hpp>

namespace diffoundry {

// softmax(scale * Q K^T) V of every head. Inputs of one type, f32, f16 or bf16: Q (batch, queries, heads * width),
// K (batch, keys, heads * width) and V (batch, keys, heads * value width). Output: (batch, queries, heads * value width).
// Both widths are multiples of 8, at most 256.
class DiffoundryAttention : public ov::op::Op {
public:
    OPENVINO_OP("DiffoundryAttention", "diffoundry");

    DiffoundryAttention() = default;
    DiffoundryAttention(const ov::OutputVector& arguments, int64_t heads, float scale);

    void validate_and_infer_types() override;
    std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& arguments) const override;
    bool visit_attributes(ov::AttributeVisitor& visitor) override;
    bool evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const override;
    bool has_evaluate() const override;

private:
    int64_t heads_ = 1;
    float scale_ = 1.0f;
};

}  // namespace diffoundry
