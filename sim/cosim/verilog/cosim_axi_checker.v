// Checks the rules of AXI on everything that the NPU drives: its master's AW, W and AR, and the answers of its
// registers; and that every burst lies in the window of its master. Counts the cycles with a violation and keeps the
// first one as a sentence.

`default_nettype none

module cosim_axi_checker #(
    parameter DATA_BITS    = 128,
    parameter ADDRESS_BITS = 40,
    parameter ID_BITS      = 2,
    parameter FETCH_ID     = 0   // identifier of the instruction fetch's bursts; all other reads are loads
) (
    input  wire                    clk,
    input  wire                    rst,
    output reg  [31:0]             violations,
    output reg  [8*48-1:0]         first_violation,

    input  wire [ADDRESS_BITS:0]   code_base,
    input  wire [ADDRESS_BITS:0]   code_limit,
    input  wire [ADDRESS_BITS:0]   load_base,
    input  wire [ADDRESS_BITS:0]   load_limit,
    input  wire [ADDRESS_BITS:0]   store_base,
    input  wire [ADDRESS_BITS:0]   store_limit,

    input  wire [ID_BITS-1:0]      aw_id,
    input  wire [ADDRESS_BITS-1:0] aw_address,
    input  wire  [7:0]             aw_len,
    input  wire  [2:0]             aw_size,
    input  wire  [1:0]             aw_burst,
    input  wire                    aw_valid,
    input  wire                    aw_ready,
    input  wire [DATA_BITS-1:0]    w_data,
    input  wire [DATA_BITS/8-1:0]  w_strb,
    input  wire                    w_last,
    input  wire                    w_last_expected,
    input  wire                    w_valid,
    input  wire                    w_ready,
    input  wire [ID_BITS-1:0]      ar_id,
    input  wire [ADDRESS_BITS-1:0] ar_address,
    input  wire  [7:0]             ar_len,
    input  wire  [2:0]             ar_size,
    input  wire  [1:0]             ar_burst,
    input  wire                    ar_valid,
    input  wire                    ar_ready,
    input  wire  [1:0]             register_bresp,
    input  wire                    register_bvalid,
    input  wire                    register_bready,
    input  wire [31:0]             register_rdata,
    input  wire  [1:0]             register_rresp,
    input  wire                    register_rvalid,
    input  wire                    register_rready
);
    localparam ADDRESS_WIDTH = ID_BITS + ADDRESS_BITS + 8 + 3 + 2;

    wire aw_fell, aw_changed, w_fell, w_changed, ar_fell, ar_changed, b_fell, b_changed, r_fell, r_changed;
    wire aw_crosses, aw_unsupported, ar_crosses, ar_unsupported, aw_outside, ar_outside;
    wire is_fetch = ar_id == FETCH_ID[ID_BITS-1:0];

    cosim_channel_check #(.WIDTH(ADDRESS_WIDTH)) aw (
        .clk(clk), .rst(rst), .valid(aw_valid), .ready(aw_ready),
        .payload({aw_id, aw_address, aw_len, aw_size, aw_burst}), .fell(aw_fell), .changed(aw_changed)
    );
    cosim_channel_check #(.WIDTH(DATA_BITS + DATA_BITS / 8 + 1)) w (
        .clk(clk), .rst(rst), .valid(w_valid), .ready(w_ready),
        .payload({w_data, w_strb, w_last}), .fell(w_fell), .changed(w_changed)
    );
    cosim_channel_check #(.WIDTH(ADDRESS_WIDTH)) ar (
        .clk(clk), .rst(rst), .valid(ar_valid), .ready(ar_ready),
        .payload({ar_id, ar_address, ar_len, ar_size, ar_burst}), .fell(ar_fell), .changed(ar_changed)
    );
    cosim_channel_check #(.WIDTH(2)) b (
        .clk(clk), .rst(rst), .valid(register_bvalid), .ready(register_bready),
        .payload(register_bresp), .fell(b_fell), .changed(b_changed)
    );
    cosim_channel_check #(.WIDTH(34)) r (
        .clk(clk), .rst(rst), .valid(register_rvalid), .ready(register_rready),
        .payload({register_rdata, register_rresp}), .fell(r_fell), .changed(r_changed)
    );

    cosim_burst_check #(.DATA_BITS(DATA_BITS), .ADDRESS_BITS(ADDRESS_BITS)) aw_burst_check (
        .address(aw_address), .len(aw_len), .size(aw_size), .burst(aw_burst), .base(store_base), .limit(store_limit),
        .crosses(aw_crosses), .unsupported(aw_unsupported), .outside(aw_outside)
    );
    cosim_burst_check #(.DATA_BITS(DATA_BITS), .ADDRESS_BITS(ADDRESS_BITS)) ar_burst_check (
        .address(ar_address), .len(ar_len), .size(ar_size), .burst(ar_burst),
        .base(is_fetch ? code_base : load_base), .limit(is_fetch ? code_limit : load_limit),
        .crosses(ar_crosses), .unsupported(ar_unsupported), .outside(ar_outside)
    );

    wire unknown = (^{aw_valid, w_valid, ar_valid, register_bvalid, register_rvalid}) === 1'bx;

    reg [8*48-1:0] violation;
    always @* begin
        violation = 0;
        if (unknown) violation = "a valid signal is unknown (X)";
        else if (aw_fell) violation = "AW: valid fell before ready";
        else if (aw_changed) violation = "AW: payload changed before ready";
        else if (aw_valid && aw_crosses) violation = "AW: burst crosses a 4 KiB boundary";
        else if (aw_valid && aw_unsupported) violation = "AW: not an INCR burst of full beats";
        else if (aw_valid && aw_outside) violation = "AW: burst outside the memory window";
        else if (w_fell) violation = "W: valid fell before ready";
        else if (w_changed) violation = "W: payload changed before ready";
        else if (w_valid && w_ready && w_last != w_last_expected) violation = "W: last does not match the burst's length";
        else if (ar_fell) violation = "AR: valid fell before ready";
        else if (ar_changed) violation = "AR: payload changed before ready";
        else if (ar_valid && ar_crosses) violation = "AR: burst crosses a 4 KiB boundary";
        else if (ar_valid && ar_unsupported) violation = "AR: not an INCR burst of full beats";
        else if (ar_valid && ar_outside) violation = "AR: burst outside the memory window";
        else if (b_fell) violation = "register B: valid fell before ready";
        else if (b_changed) violation = "register B: payload changed before ready";
        else if (r_fell) violation = "register R: valid fell before ready";
        else if (r_changed) violation = "register R: payload changed before ready";
    end

    initial begin
        violations = 0;
        first_violation = 0;
    end

    always @(posedge clk)
        if (!rst && violation != 0) begin
            violations <= violations + 1;
            if (violations == 0) first_violation <= violation;
        end
endmodule


// A channel must hold valid and its payload until ready.
module cosim_channel_check #(
    parameter WIDTH = 8
) (
    input  wire             clk,
    input  wire             rst,
    input  wire             valid,
    input  wire             ready,
    input  wire [WIDTH-1:0] payload,
    output wire             fell,
    output wire             changed
);
    reg             waiting;
    reg [WIDTH-1:0] held;

    assign fell = waiting && !valid;
    assign changed = waiting && valid && payload !== held;

    always @(posedge clk) begin
        waiting <= valid && !ready && !rst;
        held <= payload;
    end
endmodule


// A burst must stay within 4 KiB and within its window; this memory takes INCR bursts of full beats only.
module cosim_burst_check #(
    parameter DATA_BITS    = 128,
    parameter ADDRESS_BITS = 40
) (
    input  wire [ADDRESS_BITS-1:0] address,
    input  wire  [7:0]             len,
    input  wire  [2:0]             size,
    input  wire  [1:0]             burst,
    input  wire [ADDRESS_BITS:0]   base,
    input  wire [ADDRESS_BITS:0]   limit,
    output wire                    crosses,
    output wire                    unsupported,
    output wire                    outside
);
    localparam BEAT_BYTES = DATA_BITS / 8;
    localparam SHIFT = $clog2(BEAT_BYTES);
    localparam [1:0] INCR = 1;

    wire [12:0] first_beat = {1'b0, address[11:SHIFT], {SHIFT{1'b0}}};
    wire [ADDRESS_BITS:0] first_address = {1'b0, address[ADDRESS_BITS-1:SHIFT], {SHIFT{1'b0}}};
    wire [12:0] burst_bytes = ({5'd0, len} << SHIFT) + BEAT_BYTES[12:0];
    wire [12:0] last_byte = first_beat + burst_bytes - 13'd1;

    assign outside = first_address < base || first_address + {{(ADDRESS_BITS-12){1'b0}}, burst_bytes} > limit;
    assign crosses = last_byte[12];
    assign unsupported = burst != INCR || size != SHIFT[2:0];
endmodule

`default_nettype wire
