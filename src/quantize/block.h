// One segment's Linears with their weights in float32, while scales are folded and codes are found.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "graph/graph.h"
#include "quantize/calibration.h"
#include "quantize/weight_codes.h"

namespace edgewise {

class QuantizedBlock {
 public:
  // Takes the Linears among nodes [first, end) for which `wanted` holds.
  QuantizedBlock(Graph& graph, const Segment& segment, const std::function<bool(const Node&)>& wanted);

  // Scales the inputs of Linears (AWQ, SmoothQuant) where what makes them can take the inverse: a norm's weight, the
  // rows of `up` behind a gated product, or those of v behind attention. Changes the graph's constants.
  void fold_channel_scales(std::map<ValueId, InputStatistics>& statistics, const QuantScheme& scheme, DType dtype);
  // Rounds every Linear and puts the rounded values into the graph.
  void round(const std::map<ValueId, InputStatistics>& statistics, const QuantScheme& scheme, DType dtype);

  struct Result {
    std::string name;  // the Linear's, as in the graph
    WeightCodes codes;
    double relative_error = 0;  // of the output, squared; 0 without statistics
  };
  std::vector<Result>& results() { return results_; }
  // By what a Linear's inputs and outputs were divided; absent where they were not. Adapters must follow.
  const std::map<std::string, std::vector<float>>& input_scales() const { return input_scales_; }
  const std::map<std::string, std::vector<float>>& output_scales() const { return output_scales_; }

 private:
  bool can_fold(ValueId input) const;
  void fold(ValueId input, const std::vector<float>& s);
  std::vector<float> shared_by_heads(ValueId input, const std::vector<float>& s) const;
  void scale_rows(ValueId linear_output, const std::vector<float>& s);
  void set_constant(ValueId id, std::vector<float> values);

  Graph& graph_;
  std::map<NodeId, FloatMatrix> weights_;
  std::map<ValueId, std::vector<NodeId>> readers_;  // Linears by the activation they read
  std::vector<int> uses_;
  std::vector<Result> results_;
  std::map<std::string, std::vector<float>> input_scales_;
  std::map<std::string, std::vector<float>> output_scales_;
};

}  // namespace edgewise
